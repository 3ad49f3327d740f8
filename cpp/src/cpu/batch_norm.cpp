// Batch normalization on the CPU: groups of channels that stay in cache between their sweeps, or two sweeps of the whole.
#include "cpu/batch_norm.h"

#include <algorithm>

#include "cpu/plan.h"
#include "cpu/scratch.h"

namespace bnfast::cpu {
namespace {

std::int64_t padded(std::int64_t channels) { return channels + kPadding; }

Operand from_channel(const Operand& operand, std::int64_t channel, DType dtype) {
    Operand result = operand;
    if (result.data != nullptr) {
        result.data = static_cast<char*>(result.data) + channel * operand.channel_stride * item_size(dtype);
    }
    return result;
}

// The problem of channels [begin, end) alone.
Problem channel_range(const Problem& problem, std::int64_t begin, std::int64_t end) {
    Problem part = problem;
    part.geometry.channels = end - begin;
    for (Operand Problem::*operand :
         {&Problem::x, &Problem::residual, &Problem::y, &Problem::dy, &Problem::dx, &Problem::dresidual}) {
        part.*operand = from_channel(problem.*operand, begin, problem.dtype);
    }
    return part;
}

ChannelStatistics from_channel(const ChannelStatistics& s, std::int64_t channel) {
    return {s.count + channel,  s.mean + channel,  s.mean_low + channel, s.m2 + channel,
            s.invstd + channel, s.gamma + channel, s.beta + channel};
}

const ElementKernels& kernels_of(const Problem& problem) {
    return active_target().elements[static_cast<int>(problem.dtype)];
}

// --- blocks -----------------------------------------------------------------------------------------------------

std::int64_t count_bits(const std::uint8_t* row, std::int64_t begin, std::int64_t end) {
    std::int64_t count = 0;
    for (std::int64_t i = begin; i < end; ++i) count += (row[i >> 3] >> (i & 7)) & 1;
    return count;
}

// The elements of each block of a channel that take part; returns their sum.
double count_elements(const Problem& problem, const Blocks& blocks, double* counts) {
    const Geometry& g = problem.geometry;
    double total = 0;
    for (std::int64_t b = 0; b < blocks.count; ++b) {
        std::int64_t count = 0;
        const std::int64_t outer_begin = blocks.pieces > 1 ? b / blocks.pieces : b * blocks.outer_per_block;
        const std::int64_t outer_end =
            blocks.pieces > 1 ? outer_begin + 1 : std::min(g.outer, outer_begin + blocks.outer_per_block);
        const std::int64_t inner_begin = blocks.pieces > 1 ? (b % blocks.pieces) * blocks.piece : 0;
        const std::int64_t inner_end = blocks.pieces > 1 ? std::min(g.inner, inner_begin + blocks.piece) : g.inner;
        if (problem.where.bits == nullptr) {
            count = (outer_end - outer_begin) * (inner_end - inner_begin);
        } else if (g.rows) {
            count = count_bits(problem.where.bits, outer_begin, outer_end);
        } else {
            for (std::int64_t o = outer_begin; o < outer_end; ++o) {
                count += count_bits(problem.where.bits + o * problem.where.pitch, inner_begin, inner_end);
            }
        }
        counts[b] = static_cast<double>(count);
        total += counts[b];
    }
    return total;
}

struct BlockCounts {
    Blocks blocks;
    const double* each;
    double total;
};

BlockCounts count_blocks(const Problem& problem, Scratch& scratch) {
    BlockCounts result;
    result.blocks = cut_blocks(problem.geometry);
    double* each = scratch.take<double>(result.blocks.count + 1);
    result.total = count_elements(problem, result.blocks, each);
    result.each = each;
    return result;
}

// Block results are kept as [block][channel], so that merging runs over channels.
BlockMoments take_block_moments(Scratch& scratch, std::int64_t blocks, std::int64_t pitch) {
    return {scratch.take<double>(blocks * pitch), scratch.take<double>(blocks * pitch),
            scratch.take<double>(blocks * pitch)};
}
BlockSums take_block_sums(Scratch& scratch, std::int64_t blocks, std::int64_t pitch) {
    return {scratch.take<double>(blocks * pitch), scratch.take<double>(blocks * pitch)};
}

void store_moments(const BlockMoments& merged, std::int64_t channels, double total, bool any_block,
                   const ChannelStatistics& out) {
    std::fill_n(out.count, channels, total);
    if (any_block) {
        std::copy_n(merged.mean, channels, out.mean);
        std::copy_n(merged.mean_low, channels, out.mean_low);
        std::copy_n(merged.m2, channels, out.m2);
    } else {
        std::fill_n(out.mean, channels, 0.0);
        std::fill_n(out.mean_low, channels, 0.0);
        std::fill_n(out.m2, channels, 0.0);
    }
}

// --- coefficients -----------------------------------------------------------------------------------------------

using MutableCoefficients = BasicCoefficients<void*>;

MutableCoefficients take_coefficients(Scratch& scratch, const Problem& problem) {
    const std::int64_t bytes =
        padded(problem.geometry.channels) * static_cast<std::int64_t>(sizeof(double));
    const auto row = [&] { return static_cast<void*>(scratch.take<char>(bytes)); };
    return {row(), row(), row(), row(), row(), row(), row(), row()};
}

Coefficients affine_coefficients(const Problem& problem, const ChannelStatistics& s, const MutableCoefficients& out) {
    const AffineInputs inputs{s.mean, s.mean_low, s.invstd, s.gamma, s.beta};
    const bool prescaled = active_target().forward_coefficients(inputs, problem.dtype == DType::kFloat64,
                                                                problem.geometry.channels, out);
    return {prescaled ? out.prescale : nullptr, out.mean_high, out.mean_low, out.scale, out.shift, out.mean_dz,
            out.projection, out.dx_scale};
}

void gradient_coefficients(const Problem& problem, const ChannelStatistics& s, bool constant_statistics,
                           const TotalSums& total, const Coefficients& affine, const MutableCoefficients& out) {
    active_target().gradient_coefficients(
        {s.count, s.m2, s.invstd, s.gamma, total.count, total.sum_dz, total.sum_dz_xmu, problem.eps_placement,
         constant_statistics},
        problem.dtype == DType::kFloat64, problem.geometry.channels, affine, out);
}

// Sums of dz * (x - mean) * prescale become sums of dz * (x - mean).
void undo_prescale(const Problem& problem, const Coefficients& affine, double* sum_dz_xmu) {
    if (affine.prescale == nullptr) return;  // float64 never has one
    for (std::int64_t c = 0; c < problem.geometry.channels; ++c) {
        sum_dz_xmu[c] /= static_cast<double>(static_cast<const float*>(affine.prescale)[c]);
    }
}

// --- sweeps -----------------------------------------------------------------------------------------------------

// Cuts the sweep of a whole tensor into tasks: [block ranges] x [channel ranges]. Planes go channel by channel as long
// as there are enough of them; rows and few planes are cut along the blocks.
struct Sweep {
    std::int64_t channel_step, block_step, channel_tasks, block_tasks;
    std::int64_t tasks() const { return channel_tasks * block_tasks; }
};

Sweep cut_sweep(const Problem& problem, const Blocks& blocks, int threads) {
    constexpr std::int64_t kTasksPerThread = 8;
    const std::int64_t wanted = kTasksPerThread * threads;
    const std::int64_t channels = problem.geometry.channels;
    Sweep sweep;
    if (problem.geometry.rows) {
        sweep.channel_step = std::max<std::int64_t>(channels, 1);
        sweep.block_step = std::max<std::int64_t>(1, blocks.count / wanted);
    } else {
        sweep.channel_step = std::max<std::int64_t>(1, channels / wanted);
        const std::int64_t channel_tasks = (channels + sweep.channel_step - 1) / sweep.channel_step;
        sweep.block_step = std::max<std::int64_t>(1, blocks.count * channel_tasks / wanted);
    }
    sweep.block_step = std::min(sweep.block_step, std::max<std::int64_t>(blocks.count, 1));
    sweep.channel_tasks = (channels + sweep.channel_step - 1) / sweep.channel_step;
    sweep.block_tasks = (blocks.count + sweep.block_step - 1) / sweep.block_step;
    return sweep;
}

BlockRange block_range(const Problem& problem, const Blocks& blocks, const Sweep& sweep, std::int64_t task,
                       std::int64_t pitch) {
    const std::int64_t channel = task / sweep.block_tasks * sweep.channel_step;
    const std::int64_t block = task % sweep.block_tasks * sweep.block_step;
    return {channel, std::min(channel + sweep.channel_step, problem.geometry.channels), block,
            std::min(block + sweep.block_step, blocks.count), pitch};
}

// Runs body(tile) over the whole tensor, in tiles that follow each other in memory. Last tiles first: what the sweep
// before read last is still in the caches.
template <class Body>
void sweep_tiles(const Problem& problem, int threads, const Body& body) {
    constexpr std::int64_t kTilesPerThread = 16;
    const Geometry& g = problem.geometry;
    if (problem.elements() == 0) return;
    const std::int64_t wanted = kTilesPerThread * threads;
    const std::int64_t outer_step = std::max<std::int64_t>(1, g.outer / wanted);
    const std::int64_t outer_tiles = (g.outer + outer_step - 1) / outer_step;
    std::int64_t channel_step = g.channels, inner_step = g.inner;
    if (!g.rows && outer_tiles < wanted) {
        channel_step = std::max<std::int64_t>(1, g.channels * outer_tiles / wanted);
        const std::int64_t tiles = outer_tiles * ((g.channels + channel_step - 1) / channel_step);
        if (tiles < threads) inner_step = (g.inner * tiles / wanted + kLaneElements) / kLaneElements * kLaneElements;
    }
    const std::int64_t channel_tiles = (g.channels + channel_step - 1) / channel_step;
    const std::int64_t inner_tiles = (g.inner + inner_step - 1) / inner_step;
    const std::int64_t tiles = outer_tiles * channel_tiles * inner_tiles;
    parallel_for(tiles, threads, [&](std::int64_t task) {
        const std::int64_t tile = tiles - 1 - task;
        const std::int64_t o = tile / (channel_tiles * inner_tiles) * outer_step;
        const std::int64_t c = tile / inner_tiles % channel_tiles * channel_step;
        const std::int64_t i = tile % inner_tiles * inner_step;
        body(Tile{o, std::min(o + outer_step, g.outer), c, std::min(c + channel_step, g.channels), i,
                  std::min(i + inner_step, g.inner)});
    });
}

// Runs body(begin, end) over groups of channels.
template <class Body>
void for_each_group(std::int64_t channels, std::int64_t per_group, int threads, const Body& body) {
    parallel_for((channels + per_group - 1) / per_group, threads, [&](std::int64_t task) {
        body(task * per_group, std::min(channels, (task + 1) * per_group));
    });
}

// Channels whose blocks are merged by one task of a two-sweep call: short enough to share, long enough to vectorise.
constexpr std::int64_t kMergedTogether = 64;

// sum(range) for all blocks of the tensor, then merge(first channel, end) for all channels.
template <class Sum, class Merge>
void two_phase_sums(const Problem& problem, const Blocks& blocks, int threads, std::int64_t pitch, const Sum& sum,
                    const Merge& merge) {
    const Sweep sweep = cut_sweep(problem, blocks, threads);
    parallel_for(sweep.tasks(), threads,
                 [&](std::int64_t task) { sum(block_range(problem, blocks, sweep, task, pitch)); });
    for_each_group(problem.geometry.channels, kMergedTogether, threads, merge);
}

// --- forward ----------------------------------------------------------------------------------------------------

MomentsTask moments_task(const Problem& problem, const BlockCounts& counts) {
    return {problem.geometry, counts.blocks, problem.x, problem.where, counts.each};
}

// Moments of all channels of a (part of a) problem, by the calling thread.
void moments_here(const Problem& problem, const BlockCounts& counts, const ChannelStatistics& out) {
    Scratch scratch;
    const std::int64_t channels = problem.geometry.channels, pitch = padded(channels);
    const BlockMoments blocks = take_block_moments(scratch, std::max<std::int64_t>(counts.blocks.count, 1), pitch);
    kernels_of(problem).moments(moments_task(problem, counts), {0, channels, 0, counts.blocks.count, pitch}, blocks);
    active_target().merge_moments(blocks, counts.each, counts.blocks.count, pitch, channels);
    store_moments(blocks, channels, counts.total, counts.blocks.count > 0, out);
}

// Moments of all channels by all threads, blocks shared out.
void moments_together(const Problem& problem, const BlockCounts& counts, int threads, const ChannelStatistics& out) {
    Scratch scratch;
    const std::int64_t pitch = padded(problem.geometry.channels);
    const BlockMoments blocks = take_block_moments(scratch, std::max<std::int64_t>(counts.blocks.count, 1), pitch);
    const MomentsTask task = moments_task(problem, counts);
    two_phase_sums(
        problem, counts.blocks, threads, pitch,
        [&](const BlockRange& range) {
            const std::int64_t k = range.block_begin * pitch + range.channel_begin;
            kernels_of(problem).moments(task, range, {blocks.mean + k, blocks.mean_low + k, blocks.m2 + k});
        },
        [&](std::int64_t begin, std::int64_t end) {
            const BlockMoments part{blocks.mean + begin, blocks.mean_low + begin, blocks.m2 + begin};
            active_target().merge_moments(part, counts.each, counts.blocks.count, pitch, end - begin);
            store_moments(part, end - begin, counts.total, counts.blocks.count > 0, from_channel(out, begin));
        });
}

void fill_invstd(const Problem& problem, const ChannelStatistics& s) {
    active_target().invstd(s.m2, s.count, problem.eps, problem.eps_placement, problem.geometry.channels, s.invstd);
}

ForwardTask forward_task(const Problem& problem, const Coefficients& coefficients, bool streaming) {
    return {problem.geometry, problem.x,          problem.residual,         problem.y, coefficients,
            problem.where,    problem.activation, problem.activation_slope, streaming};
}

void apply_together(const Problem& problem, const ChannelStatistics& s, int threads) {
    Scratch scratch;
    const Coefficients coefficients = affine_coefficients(problem, s, take_coefficients(scratch, problem));
    const ForwardTask task = forward_task(problem, coefficients, worth_streaming(problem));
    sweep_tiles(problem, threads, [&](const Tile& tile) { kernels_of(problem).forward(task, tile); });
}

}  // namespace

double count_taking_part(const Problem& problem) {
    Scratch scratch;
    return count_blocks(problem, scratch).total;
}

void moments(const Problem& problem, const ChannelStatistics& out) {
    Scratch scratch;
    const int threads = useful_threads(problem);
    const BlockCounts counts = count_blocks(problem, scratch);
    if (threads == 1) {
        moments_here(problem, counts, out);
    } else {
        moments_together(problem, counts, threads, out);
    }
}

void normalise(const Problem& problem, const ChannelStatistics& given) {
    fill_invstd(problem, given);
    apply_together(problem, given, useful_threads(problem));
}

void forward(const Problem& problem, const ChannelStatistics& out) {
    Scratch scratch;
    const int threads = useful_threads(problem);
    const BlockCounts counts = count_blocks(problem, scratch);
    const std::int64_t per_group = channels_per_group(problem, 1, threads);
    if (per_group == 0) {
        moments_together(problem, counts, threads, out);
        fill_invstd(problem, out);
        apply_together(problem, out, threads);
        return;
    }
    const bool streaming = worth_streaming(problem);
    for_each_group(problem.geometry.channels, per_group, threads, [&](std::int64_t begin, std::int64_t end) {
        const Problem group = channel_range(problem, begin, end);
        const ChannelStatistics statistics = from_channel(out, begin);
        moments_here(group, counts, statistics);
        fill_invstd(group, statistics);
        Scratch mine;
        const Coefficients coefficients = affine_coefficients(group, statistics, take_coefficients(mine, group));
        const Geometry& g = group.geometry;
        kernels_of(group).forward(forward_task(group, coefficients, streaming),
                                  {0, g.outer, 0, g.channels, 0, g.inner});
    });
}

// --- backward ---------------------------------------------------------------------------------------------------

namespace {

BackwardTask backward_task(const Problem& problem, const Blocks& blocks, const Coefficients& coefficients,
                           bool streaming) {
    const Operand residual = problem.backward_reads_residual() ? problem.residual : Operand{};
    return {problem.geometry,  blocks,       problem.x,     residual,           problem.dy,               problem.dx,
            problem.dresidual, coefficients, problem.where, problem.activation, problem.activation_slope, streaming};
}

void sums_here(const Problem& problem, const Blocks& blocks, const Coefficients& coefficients, double* sum_dz,
               double* sum_dz_xmu) {
    Scratch scratch;
    const std::int64_t channels = problem.geometry.channels, pitch = padded(channels);
    const BlockSums sums = take_block_sums(scratch, std::max<std::int64_t>(blocks.count, 1), pitch);
    if (blocks.count == 0) {
        std::fill_n(sums.dz, channels, 0.0);
        std::fill_n(sums.dz_xmu, channels, 0.0);
    }
    kernels_of(problem).backward_sums(backward_task(problem, blocks, coefficients, false),
                                      {0, channels, 0, blocks.count, pitch}, sums);
    active_target().merge_sums(sums, blocks.count, pitch, channels);
    std::copy_n(sums.dz, channels, sum_dz);
    std::copy_n(sums.dz_xmu, channels, sum_dz_xmu);
    undo_prescale(problem, coefficients, sum_dz_xmu);
}

void sums_together(const Problem& problem, const Blocks& blocks, const Coefficients& coefficients, int threads,
                   double* sum_dz, double* sum_dz_xmu) {
    Scratch scratch;
    const std::int64_t pitch = padded(problem.geometry.channels);
    const BlockSums sums = take_block_sums(scratch, std::max<std::int64_t>(blocks.count, 1), pitch);
    if (blocks.count == 0) {
        std::fill_n(sums.dz, pitch, 0.0);
        std::fill_n(sums.dz_xmu, pitch, 0.0);
    }
    const BackwardTask task = backward_task(problem, blocks, coefficients, false);
    two_phase_sums(
        problem, blocks, threads, pitch,
        [&](const BlockRange& range) {
            const std::int64_t k = range.block_begin * pitch + range.channel_begin;
            kernels_of(problem).backward_sums(task, range, {sums.dz + k, sums.dz_xmu + k});
        },
        [&](std::int64_t begin, std::int64_t end) {
            active_target().merge_sums({sums.dz + begin, sums.dz_xmu + begin}, blocks.count, pitch, end - begin);
            std::copy(sums.dz + begin, sums.dz + end, sum_dz + begin);
            std::copy(sums.dz_xmu + begin, sums.dz_xmu + end, sum_dz_xmu + begin);
        });
    undo_prescale(problem, coefficients, sum_dz_xmu);
}

}  // namespace

void gradient_sums(const Problem& problem, const ChannelStatistics& saved, double* sum_dz, double* sum_dz_xmu) {
    Scratch scratch;
    const int threads = useful_threads(problem);
    const Coefficients coefficients = affine_coefficients(problem, saved, take_coefficients(scratch, problem));
    sums_together(problem, cut_blocks(problem.geometry), coefficients, threads, sum_dz, sum_dz_xmu);
}

void backward(const Problem& problem, const ChannelStatistics& saved, bool constant_statistics, const TotalSums* total,
              double* sum_dz, double* sum_dz_xmu) {
    const int threads = useful_threads(problem);
    const Blocks blocks = cut_blocks(problem.geometry);
    const bool streaming = worth_streaming(problem);
    const int operands = problem.backward_reads_residual() ? 3 : 2;
    const std::int64_t per_group = channels_per_group(problem, operands, threads);

    const auto totals = [&](std::int64_t channel) {
        return total != nullptr
                   ? TotalSums{total->count + channel, total->sum_dz + channel, total->sum_dz_xmu + channel}
                   : TotalSums{saved.count + channel, sum_dz + channel, sum_dz_xmu + channel};
    };
    if (per_group == 0) {
        Scratch scratch;
        const MutableCoefficients memory = take_coefficients(scratch, problem);
        const Coefficients coefficients = affine_coefficients(problem, saved, memory);
        sums_together(problem, blocks, coefficients, threads, sum_dz, sum_dz_xmu);
        gradient_coefficients(problem, saved, constant_statistics, totals(0), coefficients, memory);
        const BackwardTask task = backward_task(problem, blocks, coefficients, streaming);
        sweep_tiles(problem, threads, [&](const Tile& tile) { kernels_of(problem).backward(task, tile); });
        return;
    }
    for_each_group(problem.geometry.channels, per_group, threads, [&](std::int64_t begin, std::int64_t end) {
        const Problem group = channel_range(problem, begin, end);
        const ChannelStatistics statistics = from_channel(saved, begin);
        Scratch mine;
        const MutableCoefficients memory = take_coefficients(mine, group);
        const Coefficients coefficients = affine_coefficients(group, statistics, memory);
        sums_here(group, blocks, coefficients, sum_dz + begin, sum_dz_xmu + begin);
        gradient_coefficients(group, statistics, constant_statistics, totals(begin), coefficients, memory);
        const Geometry& g = group.geometry;
        kernels_of(group).backward(backward_task(group, blocks, coefficients, streaming),
                                   {0, g.outer, 0, g.channels, 0, g.inner});
    });
}

void stream_sum(float* dst, const float* const* sources, int num_sources, std::int64_t n, int threads) {
    constexpr std::int64_t kChunk = 1 << 18;  // elements
    parallel_for((n + kChunk - 1) / kChunk, threads, [&](std::int64_t task) {
        const std::int64_t begin = task * kChunk, size = std::min(kChunk, n - begin);
        const float* shifted[8];
        for (int k = 0; k < num_sources && k < 8; ++k) shifted[k] = sources[k] + begin;
        active_target().stream_sum(dst + begin, shifted, num_sources, size);
    });
}

}  // namespace bnfast::cpu
