// How a problem is cut: the blocks of the summation tree (by geometry alone), and the work of the threads (by caches).
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/problem.h"
#include "cpu/target.h"

namespace bnfast::cpu {

constexpr std::int64_t kBlockElements = 4096;    // of a channel of planes; four pages of float32, in L1
constexpr std::int64_t kBlockRows = 512;         // a multiple of the rows that kernels/flat.h walks as one
constexpr std::int64_t kSerialElements = 32768;  // waking a thread costs more than this much work
constexpr std::int64_t kLaneElements = 16;

inline Blocks cut_blocks(const Geometry& geometry) {
    Blocks blocks;
    if (geometry.outer == 0 || geometry.inner == 0) return blocks;
    if (geometry.rows) {
        blocks.outer_per_block = kBlockRows;
    } else if (geometry.inner > kBlockElements) {
        const std::int64_t pieces = (geometry.inner + kBlockElements - 1) / kBlockElements;
        const std::int64_t piece = (geometry.inner + pieces - 1) / pieces;
        blocks.piece = (piece + kLaneElements - 1) / kLaneElements * kLaneElements;
        blocks.pieces = (geometry.inner + blocks.piece - 1) / blocks.piece;
        blocks.count = geometry.outer * blocks.pieces;
        return blocks;
    } else {
        // Short planes are summed like rows: no longer chains of additions than theirs.
        blocks.outer_per_block = std::clamp<std::int64_t>(kBlockElements / geometry.inner, 1, kBlockRows);
    }
    blocks.count = (geometry.outer + blocks.outer_per_block - 1) / blocks.outer_per_block;
    return blocks;
}

// The threads that are worth waking for a call.
inline int useful_threads(std::int64_t elements) {
    const std::int64_t by_size = elements / (kSerialElements / 2);
    return static_cast<int>(std::clamp<std::int64_t>(by_size, 1, num_threads()));
}
inline int useful_threads(const Problem& problem) { return useful_threads(problem.elements()); }

// What a tensor can count on of the shared cache, where a call has as many again; nothing where memory is as fast.
inline std::int64_t share_of_shared_cache() {
    constexpr std::int64_t kShareOfThread = 4 << 20;  // at most: other programs use it too
    if (!shared_cache_is_near()) return 0;
    return std::min(shared_cache_bytes() / 4, kShareOfThread * num_threads());
}

// Whether the caches will have lost a result of so many bytes before it is read again.
inline bool exceeds_caches(std::int64_t bytes) {
    return bytes > std::max(private_cache_bytes() * num_threads() / 2, share_of_shared_cache());
}

// Whether a tensor is walked by runs of which few lines are whole, since an operand's do not touch each other.
inline bool walks_short_runs(const Problem& problem) {
    constexpr std::int64_t kLongEnough = 512;  // bytes
    const Geometry& g = problem.geometry;
    const std::int64_t run = g.rows ? g.channels : g.inner;
    if (run * item_size(problem.dtype) >= kLongEnough) return false;
    const auto has_gaps = [&](const Operand& operand) {
        return operand.data != nullptr && (g.rows ? operand.outer_stride : operand.channel_stride) != run;
    };
    return problem.where.bits != nullptr || has_gaps(problem.x) || has_gaps(problem.residual) || has_gaps(problem.y) ||
           has_gaps(problem.dy) || has_gaps(problem.dx) || has_gaps(problem.dresidual);
}

// Such results are written past the caches: the lines need not be read first. In place they are read anyway, and lines
// that are not whole take up to 17 times as long past the caches as through them (Intel, 16-bit planes of 49 elements).
inline bool worth_streaming(const Problem& problem) {
    const bool in_place =
        problem.y.data == problem.x.data || (problem.dx.data != nullptr && problem.dx.data == problem.dy.data);
    return !in_place && exceeds_caches(problem.elements() * item_size(problem.dtype)) && !walks_short_runs(problem);
}

// Mask elements whose bits a fused loop makes at once: as many lines as a core can have under way, but twice as many
// in backward where L3 is far (Granite Rapids: 2 to 5 % less; forward would take 4 % more).
inline std::int64_t bits_made_at_once(const Problem& problem) {
    return problem.dy.data != nullptr && !shared_cache_is_near() ? kMostAtOnce : kMostAtOnce / 2;
}

// Ranges of channels narrow enough that all threads have several; of whole lines and vectors where they are wide.
inline std::int64_t channels_per_task(std::int64_t channels, int threads) {
    constexpr std::int64_t kWide = 256, kWhole = 32;  // channels; 32 of the narrowest type are a line
    const std::int64_t step = std::max<std::int64_t>(1, channels / (4 * threads));
    return step < kWide ? step : (step + kWhole - 1) / kWhole * kWhole;
}

// Runs body(begin, end) over ranges of channels.
template <class Body>
void for_each_range(std::int64_t channels, std::int64_t step, int threads, const Body& body) {
    parallel_for((channels + step - 1) / step, threads,
                 [&](std::int64_t task) { body(task * step, std::min(channels, (task + 1) * step)); });
}

// How the channels of a tensor are grouped. A group is measured and then normalised while it is in the caches.
struct Grouping {
    std::int64_t per_group = 1;         // channels
    bool shared = false;                // all threads work on one group after the other, each on its part
    std::int64_t next = kFetchNothing;  // what normalising one fetches ahead: fetch_channels of the kernels' tasks
};

// The bytes of a group that are neighbours in memory, and how many of them it takes for a group to be fetched well.
inline std::int64_t run_bytes(const Problem& problem, const Grouping& grouping) {
    return grouping.per_group * problem.geometry.inner * item_size(problem.dtype);
}
constexpr std::int64_t kLongestRun = 65536, kShortestRun = 1024, kShortestOfFewRows = 256;

inline Grouping group_channels(const Problem& problem, int operands, int threads) {
    const Geometry& g = problem.geometry;
    const std::int64_t item = item_size(problem.dtype);
    const std::int64_t channel_bytes = g.outer * g.inner * item * operands;
    const std::int64_t cache = private_cache_bytes(), budget = cache * 7 / 8;
    const std::int64_t all = std::max<std::int64_t>(g.channels, 1);
    if (threads == 1 && channel_bytes * g.channels <= cache * 3 / 4) return {all, false, kFetchNothing};
    // Channels that are too long for all caches together are swept twice, and so are rows that would make the same bits
    // of a mask for two groups.
    const bool enough = g.channels >= 2 * threads;
    const bool fits_shared = enough && shared_cache_is_near() && channel_bytes * threads <= shared_cache_bytes() / 4;
    const bool fits_together = channel_bytes <= budget * threads;
    const Grouping all_together{all, true, kFetchAlong};
    if (channel_bytes == 0 || !(fits_shared || fits_together)) return all_together;
    if (g.rows && problem.has_dropout()) return all_together;
    Grouping grouping;
    if (channel_bytes > budget ? !fits_shared : g.channels < threads) {
        if (g.rows) return all_together;
        grouping.shared = true;
        grouping.per_group = std::max<std::int64_t>(1, budget * threads / 2 / channel_bytes);
    } else {
        // Wide enough that every run of memory is several pages long, narrow enough that all threads have several.
        const std::int64_t wanted = std::min(
            {kLongestRun / (g.inner * item), budget * 3 / 7 / channel_bytes, channels_per_task(g.channels, threads)});
        grouping.per_group = std::max<std::int64_t>(wanted, 1);
        if (g.rows && wanted >= kLaneElements) grouping.per_group -= wanted % kLaneElements;  // whole vectors
        // Short planes, and rows, leave a group with runs too short to fetch. A strip of many rows, besides, is spread
        // over few sets of the cache where the stride is a power of two, and does not stay there.
        constexpr std::int64_t kFewRows = 64;
        const std::int64_t shortest = g.rows && g.outer <= kFewRows ? kShortestOfFewRows : kShortestRun;
        if ((g.flat || g.rows) && run_bytes(problem, grouping) < shortest) return all_together;
    }
    // The next group may be fetched while this one is normalised, where both fit in the cache and come from memory. It
    // pays where L3 is near (Zen 4: a tenth to a fifth). Where it is far, sums keep up with memory, and fetching only
    // delays the streamed stores (Granite Rapids: forward and backward took a sixth longer), unless these wait for the
    // bits of dropout as it is (3 % less).
    const std::int64_t group_bytes = grouping.per_group * channel_bytes / (grouping.shared ? threads : 1);
    const bool fits = 2 * group_bytes <= cache * 7 / 8;
    const bool makes_bits = operands == 1 && problem.has_dropout();  // forward; backward keeps them from the sums
    const bool from_memory = channel_bytes * g.channels > std::max(cache * threads, 2 * share_of_shared_cache());
    if (!g.rows && fits && from_memory && (shared_cache_is_near() || makes_bits)) grouping.next = grouping.per_group;
    return grouping;
}

// Whether threads that only normalise should each have channels of their own, too: where coefficients take as long as
// the elements, or runs are long.
inline bool normalises_by_groups(const Problem& problem, const Grouping& grouping) {
    constexpr std::int64_t kShortChannel = 64;  // elements
    if (grouping.shared || grouping.per_group >= problem.geometry.channels) return false;
    return problem.geometry.rows ? run_bytes(problem, grouping) >= kShortestRun
                                 : problem.channel_elements() <= kShortChannel;
}

}  // namespace bnfast::cpu
