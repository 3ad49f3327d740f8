// How a call is cut into work: decisions that only speed depends on.
#include "cpu/schedule.h"

#include <algorithm>
#include <atomic>
#include <initializer_list>

#include "cpu/caches.h"
#include "numerics/blocks.h"

namespace bnfast::cpu {
namespace {

// --- decisions, usual or random ---------------------------------------------------------------------------------

std::atomic<bool> is_random{false};
std::atomic<std::uint64_t> random_state{0};

// Splitmix64 (Steele, Lea & Flood 2014).
std::uint64_t draw() {
    constexpr std::uint64_t kStep = 0x9e3779b97f4a7c15U;
    std::uint64_t z = random_state.fetch_add(kStep, std::memory_order_relaxed) + kStep;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

// What the library has decided; where a test wants any decision, one from `least` to `most`.
std::int64_t decide(std::int64_t decision, std::int64_t least, std::int64_t most) {
    if (!is_random.load(std::memory_order_relaxed)) return decision;
    const std::uint64_t choices = static_cast<std::uint64_t>(std::max(most, least) - least) + 1;
    return least + static_cast<std::int64_t>(draw() % choices);
}
bool decide(bool decision) { return decide(decision ? 1 : 0, 0, 1) != 0; }

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// --- caches -----------------------------------------------------------------------------------------------------

constexpr std::int64_t kSerialElements = 32768;  // waking a thread costs more than this much work

// The part of the shared cache in which a call may expect to find a tensor again; 0 where that cache is no faster than
// memory.
std::int64_t share_of_shared_cache() {
    constexpr std::int64_t kShareOfThread = 4 << 20;  // at most: other programs use it too
    if (!shared_cache_is_near()) return 0;
    return std::min(shared_cache_bytes() / 4, kShareOfThread * num_threads());
}

// Whether the caches will have lost a result of so many bytes before it is read again.
bool exceeds_caches(std::int64_t bytes) {
    return bytes > std::max(private_cache_bytes() * num_threads() / 2, share_of_shared_cache());
}

// Whether a tensor is walked by runs of which few lines are whole, since an operand's do not touch each other.
constexpr std::int64_t kLongRun = 512;  // bytes
bool walks_short_runs(const BoundProblem& problem) {
    const Geometry& g = problem.geometry;
    const std::int64_t run = g.rows ? g.channels : g.inner;
    if (run * item_size(problem.dtype) >= kLongRun) return false;
    const auto has_gaps = [&](const Operand& operand) {
        return operand.is_there() && (g.rows ? operand.outer_stride : operand.channel_stride) != run;
    };
    return problem.where.are_there() || has_gaps(problem.x) || has_gaps(problem.residual) || has_gaps(problem.y) ||
           has_gaps(problem.dy) || has_gaps(problem.dx) || has_gaps(problem.dresidual);
}

// Whether results are channels by themselves, short ones, that share lines, and that the kernels do not walk as one
// run: each such line takes as long as a channel.
bool shares_short_lines(const BoundProblem& problem) {
    constexpr std::int64_t kLine = 64, kLongChannel = 8192;  // bytes
    const std::int64_t item = item_size(problem.dtype), inner = problem.geometry.inner;
    if (!problem.along.used || inner * item >= kLongChannel) return false;
    const auto shares = [&](const Operand& operand) {
        return operand.is_there() && (reinterpret_cast<std::uintptr_t>(operand.data) % kLine != 0 ||
                                      operand.channel_stride * item % kLine != 0);
    };
    const auto touch = [&](const Operand& operand) { return !operand.is_there() || operand.channel_stride == inner; };
    const bool one_run = problem.activation == Activation::kNone && problem.along.period == 1 &&
                         inner >= numerics::kLanes && touch(problem.x) && touch(problem.y) && touch(problem.dy) &&
                         touch(problem.dh) && touch(problem.dx) && !(problem.dy.is_there() && problem.prologue.used);
    return !one_run && (shares(problem.y) || shares(problem.dx));
}

// The fewest channels that a task may have to itself: several narrow rows are walked as one, with all of their
// channels.
std::int64_t fewest_channels(const Geometry& g) { return g.rows && g.flat ? std::max<std::int64_t>(g.channels, 1) : 1; }

// The bytes of a group that are neighbours in memory, and how many of them it takes for a group to be fetched well.
std::int64_t run_bytes(const BoundProblem& problem, const Grouping& grouping) {
    return grouping.per_group * problem.geometry.inner * item_size(problem.dtype);
}
constexpr std::int64_t kLongestRun = 65536, kShortestRun = 1024, kShortestOfFewRows = 256;

}  // namespace

int useful_threads(std::int64_t elements) {
    const std::int64_t by_size = elements / (kSerialElements / 2);
    const std::int64_t threads = std::clamp<std::int64_t>(by_size, 1, num_threads());
    return static_cast<int>(decide(threads, 1, num_threads()));
}

bool worth_streaming(std::int64_t bytes) { return decide(exceeds_caches(bytes)); }

bool worth_streaming(const BoundProblem& problem) {
    // In place the lines are read anyway, and lines that are not whole take up to 17 times as long past the caches as
    // through them (Intel, 16-bit planes of 49 elements).
    const bool in_place =
        problem.y.data == problem.x.data || (problem.dx.is_there() && problem.dx.data == problem.dy.data);
    return decide(!in_place && exceeds_caches(problem.elements() * item_size(problem.dtype)) &&
                  !walks_short_runs(problem) && !shares_short_lines(problem));
}

std::int64_t mask_portion(const BoundProblem& problem) {
    // As many lines as a core can have under way, but twice as many in backward where L3 is far (Granite Rapids: 2 to
    // 5 % less; forward would take 4 % more).
    const bool more = problem.dy.is_there() && !shared_cache_is_near();
    const std::int64_t lanes =
        decide((more ? kMostAtOnce : kMostAtOnce / 2) / numerics::kLanes, 1, kMostAtOnce / numerics::kLanes);
    return lanes * numerics::kLanes;
}

std::int64_t channels_per_task(std::int64_t channels, int threads) {
    constexpr std::int64_t kWide = 256, kWhole = 32;  // channels; 32 of the narrowest type are a line
    const std::int64_t step = std::max<std::int64_t>(1, channels / (4 * threads));
    return decide(step < kWide ? step : divide_up(step, kWhole) * kWhole, 1, channels);
}

std::int64_t channels_merged_together() {
    constexpr std::int64_t kTogether = 64;
    return decide(kTogether, 1, 2 * kTogether);
}

namespace {

Grouping usual_grouping(const BoundProblem& problem, int operands, int threads) {
    const Geometry& g = problem.geometry;
    const std::int64_t item = item_size(problem.dtype);
    // Bytes of the channels of one statistic, which stay together.
    const std::int64_t channel_bytes = problem.share * g.outer * g.inner * item * operands;
    const std::int64_t cache = private_cache_bytes(), budget = cache * 7 / 8;
    const std::int64_t all = std::max<std::int64_t>(g.channels, 1), statistics = problem.statistics();
    // A channel that fits in no core's cache may still fit in the shared one, if that is near and all threads have one.
    const bool enough = statistics >= 2 * threads;
    const bool fits_shared = enough && shared_cache_is_near() && channel_bytes * threads <= shared_cache_bytes() / 4;
    const bool fits_together = channel_bytes <= budget * threads;
    const Grouping all_together{all, true, kFetchAlong};
    if (channel_bytes == 0 || !(fits_shared || fits_together)) return all_together;
    if (g.rows && problem.has_dropout()) return all_together;
    Grouping grouping;
    if (channel_bytes > budget ? !fits_shared : statistics < threads) {
        if (g.rows) return all_together;
        grouping.shared = true;
        grouping.per_group = std::max<std::int64_t>(1, budget * threads / 2 / channel_bytes) * problem.share;
    } else if (threads == 1 && problem.elements() <= kSerialElements && !g.rows) {
        grouping.per_group = all;  // all of it is in the cache
    } else {
        // Wide enough that every run of memory is several pages long, narrow enough that all threads have several.
        const std::int64_t wanted =
            std::min({kLongestRun / (g.inner * item), budget * 3 / 7 / channel_bytes * problem.share,
                      channels_per_task(g.channels, threads)});
        grouping.per_group = whole_statistics(problem, std::max<std::int64_t>(wanted, 1));
        if (g.rows && problem.share == 1 && wanted >= numerics::kLanes)
            grouping.per_group -= wanted % numerics::kLanes;  // whole vectors
        // Short planes, and rows, leave a group with runs too short to fetch. A strip of many rows, besides, is spread
        // over few sets of the cache where the stride is a power of two, and does not stay there.
        constexpr std::int64_t kFewRows = 64;
        const std::int64_t shortest = g.rows && g.outer <= kFewRows ? kShortestOfFewRows : kShortestRun;
        if ((g.flat || g.rows) && run_bytes(problem, grouping) < shortest) return all_together;
    }
    // The next group may be fetched while this one is normalised, where both fit in the cache and come from memory. It
    // pays where L3 is near (Zen 4: a tenth to a fifth). Where it is far, sums keep up with memory, and fetching only
    // delays the streamed stores (Granite Rapids: forward and backward took a sixth longer), unless these wait for the
    // bits of a mask as it is (3 % less).
    const std::int64_t group_bytes =
        grouping.per_group / problem.share * channel_bytes / (grouping.shared ? threads : 1);
    const bool fits = 2 * group_bytes <= cache * 7 / 8;
    const bool makes_mask = operands == 1 && problem.has_dropout();  // forward; backward stores them with the sums
    const bool from_memory = channel_bytes * statistics > std::max(cache * threads, 2 * share_of_shared_cache());
    const bool is_there = !problem.prologue.used;  // or the next group's x is yet to be written
    if (!g.rows && fits && from_memory && is_there && (shared_cache_is_near() || makes_mask)) {
        grouping.next = grouping.per_group;
    }
    return grouping;
}

}  // namespace

Grouping group_channels(const BoundProblem& problem, int operands, int threads) {
    Grouping grouping = usual_grouping(problem, operands, threads);
    // The mask that backward stores is that of whole rows.
    const std::int64_t all = std::max<std::int64_t>(problem.geometry.channels, 1);
    const bool whole_rows = problem.geometry.rows && problem.has_dropout();
    grouping.per_group = decide(grouping.per_group, whole_rows ? all : fewest_channels(problem.geometry), all);
    grouping.per_group = whole_statistics(problem, grouping.per_group);
    grouping.shared = decide(grouping.shared);
    if (grouping.next != kFetchAlong && !problem.geometry.rows) {
        grouping.next = decide(grouping.next > 0) ? grouping.per_group : kFetchNothing;
    }
    return grouping;
}

bool works_together_along(const BoundProblem& problem, const Blocks& blocks, std::int64_t parts, int operands,
                          int threads) {
    // Kernels handle a few channels at once, which should stay in the cache.
    const std::int64_t bytes = kAlongTogether * problem.geometry.inner * item_size(problem.dtype) * operands;
    const bool too_long = blocks.count > kMostAlongBlocks || bytes > private_cache_bytes() * 7 / 8;
    return too_long || problem.from_output || decide(threads > 1 && parts < threads);
}

bool normalises_by_groups(const BoundProblem& problem, const Grouping& grouping) {
    constexpr std::int64_t kShortChannel = 64;  // elements
    const bool several = !grouping.shared && grouping.per_group < problem.geometry.channels;
    return decide(several && (problem.geometry.rows ? run_bytes(problem, grouping) >= kShortestRun
                                                    : problem.channel_elements() <= kShortChannel));
}

// --- sweeps -----------------------------------------------------------------------------------------------------

BlockRange BlockSweep::range(std::int64_t task, std::int64_t pitch) const {
    const std::int64_t channel = (along_rows ? task % channel_tasks() : task / block_tasks()) * channel_step;
    const std::int64_t block = (along_rows ? task / channel_tasks() : task % block_tasks()) * block_step;
    return {channel, std::min(channel + channel_step, channels), block, std::min(block + block_step, blocks), pitch};
}

BlockSweep cut_blocks_into_tasks(const BoundProblem& problem, const Blocks& blocks, int threads) {
    // Planes go channel by channel as long as there are enough of them; rows, short and few planes are cut along the
    // blocks, and few rows along the channels too.
    constexpr std::int64_t kTasksPerThread = 8;
    constexpr std::int64_t kRowPiece = 128;  // elements: 512 bytes of float32
    const std::int64_t wanted = kTasksPerThread * threads;
    const Geometry& g = problem.geometry;
    BlockSweep sweep;
    sweep.channels = g.channels;
    sweep.blocks = blocks.count;
    sweep.along_rows = g.rows || g.flat;
    const std::int64_t most_channels = std::max<std::int64_t>(g.channels, 1);
    const std::int64_t most_blocks = std::max<std::int64_t>(blocks.count, 1);
    if (sweep.along_rows) {
        // No two tasks along rows should make the same batch of a mask, as long as there is work for all threads.
        const bool by_batches = problem.has_dropout() && g.channels * blocks.count >= kWholeBatches * threads;
        const std::int64_t row_piece = by_batches ? kWholeBatches : kRowPiece;
        const std::int64_t piece = std::max<std::int64_t>(1, row_piece / std::max<std::int64_t>(g.inner, 1));
        const std::int64_t pieces = std::max<std::int64_t>(1, wanted / most_blocks);
        const std::int64_t step = divide_up(divide_up(g.channels, pieces), piece) * piece;
        sweep.channel_step = std::clamp<std::int64_t>(step, 1, most_channels);
        sweep.block_step = std::max<std::int64_t>(1, blocks.count / wanted);
    } else {
        sweep.channel_step = std::max<std::int64_t>(1, g.channels / wanted);
        sweep.block_step = std::max<std::int64_t>(1, blocks.count * sweep.channel_tasks() / wanted);
        // Whole planes in backward with dropout, as long as there are several for each thread: no two tasks then make
        // bits of the same one.
        const bool stores_mask = problem.has_dropout() && problem.dy.is_there();
        const bool whole_planes = stores_mask && g.outer >= 4 * threads;
        if (whole_planes) sweep.block_step = divide_up(sweep.block_step, blocks.pieces) * blocks.pieces;
    }
    sweep.channel_step = decide(sweep.channel_step, fewest_channels(g), most_channels);
    sweep.block_step = decide(std::min(sweep.block_step, most_blocks), 1, most_blocks);
    return sweep;
}

std::int64_t TileSweep::tasks() const {
    return divide_up(geometry.outer, outer_step) * divide_up(geometry.channels, channel_step) *
           divide_up(geometry.inner, inner_step);
}

Tile TileSweep::tile(std::int64_t task) const {
    const std::int64_t inner_tiles = divide_up(geometry.inner, inner_step);
    const std::int64_t channel_tiles = divide_up(geometry.channels, channel_step);
    const std::int64_t o = task / (channel_tiles * inner_tiles) * outer_step;
    const std::int64_t c = task / inner_tiles % channel_tiles * channel_step;
    const std::int64_t i = task % inner_tiles * inner_step;
    Tile tile;
    tile.outer_begin = o;
    tile.outer_end = std::min(o + outer_step, geometry.outer);
    tile.channel_begin = c;
    tile.channel_end = std::min(c + channel_step, geometry.channels);
    tile.inner_begin = i;
    tile.inner_end = std::min(i + inner_step, geometry.inner);
    return tile;
}

TileSweep cut_tiles(const BoundProblem& problem, int threads) {
    constexpr std::int64_t kTilesPerThread = 16;
    const Geometry& g = problem.geometry;
    // One thread has its own last tiles in its cache, unless all is there.
    const bool small = threads == 1 && problem.elements() <= kSerialElements;
    const std::int64_t wanted = small ? 1 : kTilesPerThread * threads;
    TileSweep sweep;
    sweep.geometry = g;
    sweep.outer_step = decide(std::max<std::int64_t>(1, g.outer / wanted), 1, g.outer);
    const std::int64_t outer_tiles = divide_up(g.outer, sweep.outer_step);
    std::int64_t channel_step = g.channels, inner_step = g.inner;
    if (!g.rows && outer_tiles < wanted) {
        channel_step = std::max<std::int64_t>(1, g.channels * outer_tiles / wanted);
        const std::int64_t tiles = outer_tiles * divide_up(g.channels, channel_step);
        if (tiles < threads)
            inner_step = (g.inner * tiles / wanted + numerics::kLanes) / numerics::kLanes * numerics::kLanes;
    }
    // Rows, and planes that are walked as rows, are written whole.
    sweep.channel_step = g.rows ? channel_step : decide(channel_step, 1, g.channels);
    sweep.inner_step = inner_step;
    if (!g.rows && !g.flat) {
        const std::int64_t most = divide_up(g.inner, numerics::kLanes);
        sweep.inner_step = decide(divide_up(inner_step, numerics::kLanes), 1, most) * numerics::kLanes;
        sweep.inner_step = std::min(sweep.inner_step, g.inner);
    }
    return sweep;
}

// --- for tests --------------------------------------------------------------------------------------------------

void randomise_schedule(std::uint64_t seed) {
    random_state.store(seed);
    is_random.store(true);
}
void restore_schedule() { is_random.store(false); }

std::vector<std::pair<std::string, std::int64_t>> thresholds() {
    return {{"lanes", numerics::kLanes},
            {"block_elements", numerics::kBlockElements},
            {"block_rows", numerics::kBlockRows},
            {"rows_in_flat", numerics::kRowsInFlat},
            {"narrow_rows", numerics::kNarrowRow},
            {"short_plane", numerics::kShortPlane},
            {"short_plane_of_many", numerics::kShortPlaneOfMany},
            {"many_planes", numerics::kManyPlanes},
            {"serial_elements", kSerialElements},
            {"short_run_bytes", kLongRun},
            {"portion", kMostAtOnce / 2},
            {"private_cache_bytes", private_cache_bytes()},
            {"shared_cache_bytes", shared_cache_bytes()}};
}

}  // namespace bnfast::cpu
