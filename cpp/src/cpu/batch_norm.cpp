// Batch normalization on the CPU: groups of channels that stay in cache between their sweeps, or two sweeps of the
// whole.
#include "cpu/batch_norm.h"

#include <algorithm>

#include "cpu/dropout.h"
#include "cpu/sweep.h"

namespace bnfast::cpu {
namespace {

// --- coefficients -----------------------------------------------------------------------------------------------

using MutableCoefficients = BasicCoefficients<void*>;

MutableCoefficients take_coefficients(Scratch& scratch, const Problem& problem) {
    const std::int64_t bytes = padded(problem.geometry.channels) * static_cast<std::int64_t>(sizeof(double));
    const auto row = [&] { return static_cast<void*>(scratch.take<char>(bytes)); };
    return {row(), row(), row(), row(), row(), row(), row(), row()};
}

Coefficients affine_coefficients(const Problem& problem, const ChannelStatistics& s, const MutableCoefficients& out) {
    const AffineInputs inputs{s.mean, s.mean_low, s.invstd, s.gamma, s.beta};
    const bool prescaled =
        active_target().forward_coefficients(inputs, problem.dtype == DType::kFloat64, problem.geometry.channels, out);
    return {prescaled ? out.prescale : nullptr,
            out.mean_high,
            out.mean_low,
            out.scale,
            out.shift,
            out.mean_dz,
            out.projection,
            out.dx_scale};
}

void gradient_coefficients(const Problem& problem, const ChannelStatistics& s, bool constant_statistics,
                           const TotalSums& total, const Coefficients& affine, const MutableCoefficients& out) {
    active_target().gradient_coefficients({s.count, s.m2, s.invstd, s.gamma, total.count, total.sum_dz,
                                           total.sum_dz_xmu, problem.eps_placement, constant_statistics},
                                          problem.dtype == DType::kFloat64, problem.geometry.channels, affine, out);
}

// Sums of dz * (x - mean) * prescale become sums of dz * (x - mean).
void undo_prescale(const Problem& problem, const Coefficients& affine, double* sum_dz_xmu) {
    if (affine.prescale == nullptr) return;  // float64 never has one
    for (std::int64_t c = 0; c < problem.geometry.channels; ++c) {
        sum_dz_xmu[c] /= static_cast<double>(static_cast<const float*>(affine.prescale)[c]);
    }
}

// --- dropout ----------------------------------------------------------------------------------------------------

// The keep bits of a problem, made once a call: backward looks at them twice.
KeepBits make_keep_bits(const Problem& problem, Scratch& scratch, int threads) {
    KeepBits keep;
    if (!problem.has_dropout() || problem.elements() == 0) return keep;
    const Geometry& g = problem.geometry;
    keep.all_channels = problem.all_channels;
    keep.first_channel = problem.first_channel;
    keep.scale = problem.dropout_scale;
    const std::int64_t runs = g.rows ? 1 : g.outer;
    const std::int64_t run = g.rows ? problem.elements() : g.channels * g.inner;
    keep.pitch = keep_bytes(run);
    std::uint8_t* bits = scratch.take<std::uint8_t>(runs * keep.pitch);
    for (std::int64_t r = 0; r < runs; ++r) {
        const std::int64_t first = (r * keep.all_channels + keep.first_channel) * g.inner;
        keep_bits(problem.dropout, static_cast<std::uint64_t>(g.rows ? 0 : first), run, bits + r * keep.pitch, threads);
    }
    keep.bits = bits;
    return keep;
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

ForwardTask forward_task(const Problem& problem, const Coefficients& coefficients, const KeepBits& keep,
                         bool streaming) {
    return {problem.geometry,
            problem.x,
            problem.residual,
            problem.y,
            coefficients,
            problem.where,
            keep,
            problem.activation,
            problem.activation_slope,
            streaming};
}

void apply_together(const Problem& problem, const ChannelStatistics& s, int threads) {
    Scratch scratch;
    const Coefficients coefficients = affine_coefficients(problem, s, take_coefficients(scratch, problem));
    const KeepBits keep = make_keep_bits(problem, scratch, threads);
    const ForwardTask task = forward_task(problem, coefficients, keep, worth_streaming(problem));
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
        const KeepBits keep = make_keep_bits(group, mine, 1);
        kernels_of(group).forward(forward_task(group, coefficients, keep, streaming),
                                  {0, g.outer, 0, g.channels, 0, g.inner});
    });
}

// --- backward ---------------------------------------------------------------------------------------------------

namespace {

BackwardTask backward_task(const Problem& problem, const Blocks& blocks, const Coefficients& coefficients,
                           const KeepBits& keep, bool streaming) {
    const Operand residual = problem.backward_reads_residual() ? problem.residual : Operand{};
    return {problem.geometry,  blocks,       problem.x,     residual, problem.dy,         problem.dx,
            problem.dresidual, coefficients, problem.where, keep,     problem.activation, problem.activation_slope,
            streaming};
}

void sums_here(const Problem& problem, const Blocks& blocks, const Coefficients& coefficients, const KeepBits& keep,
               double* sum_dz, double* sum_dz_xmu) {
    Scratch scratch;
    const std::int64_t channels = problem.geometry.channels, pitch = padded(channels);
    const BlockSums sums = take_block_sums(scratch, std::max<std::int64_t>(blocks.count, 1), pitch);
    if (blocks.count == 0) {
        std::fill_n(sums.dz, channels, 0.0);
        std::fill_n(sums.dz_xmu, channels, 0.0);
    }
    kernels_of(problem).backward_sums(backward_task(problem, blocks, coefficients, keep, false),
                                      {0, channels, 0, blocks.count, pitch}, sums);
    active_target().merge_sums(sums, blocks.count, pitch, channels);
    std::copy_n(sums.dz, channels, sum_dz);
    std::copy_n(sums.dz_xmu, channels, sum_dz_xmu);
    undo_prescale(problem, coefficients, sum_dz_xmu);
}

void sums_together(const Problem& problem, const Blocks& blocks, const Coefficients& coefficients, const KeepBits& keep,
                   int threads, double* sum_dz, double* sum_dz_xmu) {
    Scratch scratch;
    const std::int64_t pitch = padded(problem.geometry.channels);
    const BlockSums sums = take_block_sums(scratch, std::max<std::int64_t>(blocks.count, 1), pitch);
    if (blocks.count == 0) {
        std::fill_n(sums.dz, pitch, 0.0);
        std::fill_n(sums.dz_xmu, pitch, 0.0);
    }
    const BackwardTask task = backward_task(problem, blocks, coefficients, keep, false);
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
    const KeepBits keep = make_keep_bits(problem, scratch, threads);
    sums_together(problem, cut_blocks(problem.geometry), coefficients, keep, threads, sum_dz, sum_dz_xmu);
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
        const KeepBits keep = make_keep_bits(problem, scratch, threads);
        sums_together(problem, blocks, coefficients, keep, threads, sum_dz, sum_dz_xmu);
        gradient_coefficients(problem, saved, constant_statistics, totals(0), coefficients, memory);
        const BackwardTask task = backward_task(problem, blocks, coefficients, keep, streaming);
        sweep_tiles(problem, threads, [&](const Tile& tile) { kernels_of(problem).backward(task, tile); });
        return;
    }
    for_each_group(problem.geometry.channels, per_group, threads, [&](std::int64_t begin, std::int64_t end) {
        const Problem group = channel_range(problem, begin, end);
        const ChannelStatistics statistics = from_channel(saved, begin);
        Scratch mine;
        const MutableCoefficients memory = take_coefficients(mine, group);
        const Coefficients coefficients = affine_coefficients(group, statistics, memory);
        const KeepBits keep = make_keep_bits(group, mine, 1);
        sums_here(group, blocks, coefficients, keep, sum_dz + begin, sum_dz_xmu + begin);
        gradient_coefficients(group, statistics, constant_statistics, totals(begin), coefficients, memory);
        const Geometry& g = group.geometry;
        kernels_of(group).backward(backward_task(group, blocks, coefficients, keep, streaming),
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
