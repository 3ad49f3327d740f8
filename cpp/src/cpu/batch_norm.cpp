// Batch normalization on the CPU: groups of channels that stay in cache between their sweeps, or two sweeps of the
// whole.
#include "cpu/batch_norm.h"

#include <algorithm>

#include "cpu/dropout.h"
#include "cpu/extremes.h"
#include "cpu/sweep.h"

namespace bnfast::cpu {
namespace {

// --- coefficients -----------------------------------------------------------------------------------------------

using MutableCoefficients = BasicCoefficients<void*>;

MutableCoefficients take_coefficients(Scratch& scratch, const Problem& problem) {
    const std::int64_t bytes = padded(problem.geometry.channels) * static_cast<std::int64_t>(sizeof(double));
    const auto row = [&] { return static_cast<void*>(scratch.take<char>(bytes)); };
    const bool sums_about_zero = problem.dy.data != nullptr && problem.dtype != DType::kFloat64 && !problem.from_output;
    void* const inverse = problem.from_output ? row() : nullptr;
    void* const mean = sums_about_zero ? row() : nullptr;
    return {row(), row(), row(), row(), row(), row(), row(), row(), inverse, mean};
}

Coefficients affine_coefficients(const Problem& problem, const ChannelStatistics& s, const MutableCoefficients& out) {
    const AffineInputs inputs{s.mean, s.mean_low, s.m2, s.count, s.invstd, s.gamma, s.beta};
    const AffineTraits traits =
        active_target().forward_coefficients(inputs, problem.dtype == DType::kFloat64, problem.geometry.channels, out);
    return {traits.prescaled ? out.prescale : nullptr,
            out.mean_high,
            out.mean_low,
            out.scale,
            out.shift,
            out.mean_dz,
            out.projection,
            out.dx_scale,
            out.inverse,
            out.mean};
}

void gradient_coefficients(const Problem& problem, const ChannelStatistics& s, bool constant_statistics,
                           const TotalSums& total, bool sums_are_prescaled, const Coefficients& affine,
                           const MutableCoefficients& out) {
    active_target().gradient_coefficients({s.count, s.m2, s.invstd, s.gamma, total.count, total.sum_dz,
                                           total.sum_dz_xmu, sums_are_prescaled, problem.eps, problem.eps_placement,
                                           constant_statistics},
                                          problem.dtype == DType::kFloat64, problem.geometry.channels, affine, out);
}

// Multiplies numbers that stand for dz * (x - mean) * prescale by factor(c) / prescale.
template <class Factor>
void undo_prescale(const Problem& problem, const Coefficients& affine, double* values, Factor factor) {
    const auto each = [&](auto prescale) {
        for (std::int64_t c = 0; c < problem.geometry.channels; ++c) values[c] *= factor(c) / prescale(c);
    };
    if (affine.prescale == nullptr) return each([](std::int64_t) { return 1.0; });
    if (problem.dtype == DType::kFloat64) {
        return each([p = static_cast<const double*>(affine.prescale)](std::int64_t c) { return p[c]; });
    }
    each([p = static_cast<const float*>(affine.prescale)](std::int64_t c) { return static_cast<double>(p[c]); });
}

// --- dropout ----------------------------------------------------------------------------------------------------

KeepBits keep_of(const Problem& problem) {
    return {problem.has_dropout(),     problem.dropout,   problem.all_channels,    problem.first_channel,
            problem.dropout_scale,     problem.kept_bits, problem.kept_bits_pitch, false,
            bits_made_at_once(problem)};
}

// Room for the bits that the first sweep makes for the second one, where no two tasks of the first sweep make bits of
// the same word of rows, or for the same outer index of planes (long ones that threads share are in groups of one
// channel). The first sweep then makes all of them, and the second one only reads, however it is cut: an outer index
// that is shorter than a batch might be served by the bits made for the one before, and is not kept.
void take_keep_bits(Scratch& scratch, const Blocks& blocks, int threads, bool alone, Problem& group) {
    const Geometry& g = group.geometry;
    const bool normalised_flat = g.flat && (g.rows || g.inner < kLaneElements);
    if (!group.has_dropout() || normalised_flat || group.where.bits != nullptr) return;
    constexpr std::int64_t kSlackWords = 16;  // the count, and what begins and ends between two batches of elements
    const Sweep sweep = cut_sweep(group, blocks, threads);
    if (g.rows) {
        const bool by_batches = g.channels % kWholeBatches == 0 && sweep.channel_step % kWholeBatches == 0;
        if (alone || by_batches || sweep.channel_tasks == 1) {
            group.kept_bits = scratch.take<std::uint64_t>(g.outer * g.channels / 64 + kSlackWords);
        }
        return;
    }
    constexpr std::int64_t kLongRun = 1024;  // elements, beside which the slack is little
    static_assert(kLongRun >= kWholeBatches, "no outer index is shorter than a batch");
    const bool by_outer = sweep.channel_tasks == 1 && sweep.block_step % blocks.pieces == 0;
    if (!alone && (!by_outer || g.channels * g.inner < kLongRun)) return;
    group.kept_bits_pitch = g.channels * g.inner / 64 + kSlackWords;
    group.kept_bits = scratch.take<std::uint64_t>(g.outer * group.kept_bits_pitch);
    for (std::int64_t o = 0; o < g.outer; ++o) group.kept_bits[o * group.kept_bits_pitch] = 0;
}

// --- forward ----------------------------------------------------------------------------------------------------

MomentsTask moments_task(const Problem& problem, const BlockCounts& counts) {
    return {problem.geometry, counts.blocks, problem.x, problem.where, counts.each};
}

// Moments of all channels of a (part of a) problem, by the calling thread.
void moments_here(const Problem& problem, const BlockCounts& counts, const ChannelStatistics& out) {
    Scratch scratch;
    const std::int64_t channels = problem.geometry.channels, pitch = padded(channels);
    const BlockMoments blocks =
        counts.blocks.count == 1 ? BlockMoments{out.mean, out.mean_low, out.m2}
                                 : take_block_moments(scratch, std::max<std::int64_t>(counts.blocks.count, 1), pitch);
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

// What comes behind the measuring of x. invstd may be null: it is not wanted then.
void finish_statistics(const Problem& problem, const ChannelStatistics& s) {
    if (s.invstd != nullptr) fill_invstd(problem, s);
    measure_extremes(problem, s);
}

ForwardTask forward_task(const Problem& problem, const Coefficients& coefficients, bool streaming,
                         std::int64_t fetch_channels) {
    return {problem.geometry, problem.x,          problem.residual,         problem.y, coefficients,  problem.where,
            keep_of(problem), problem.activation, problem.activation_slope, streaming, fetch_channels};
}

void apply_here(const Problem& problem, const ChannelStatistics& s, bool streaming, std::int64_t fetch_channels) {
    if (problem.elements() == 0) return;  // or empty runs are walked one by one
    Scratch scratch;
    const Coefficients coefficients = affine_coefficients(problem, s, take_coefficients(scratch, problem));
    const Geometry& g = problem.geometry;
    kernels_of(problem).forward(forward_task(problem, coefficients, streaming, fetch_channels),
                                {0, g.outer, 0, g.channels, 0, g.inner});
}

void apply_together(const Problem& problem, const ChannelStatistics& s, int threads, bool streaming,
                    std::int64_t fetch_channels) {
    Scratch scratch;
    const Coefficients coefficients = affine_coefficients(problem, s, take_coefficients(scratch, problem));
    const ForwardTask task = forward_task(problem, coefficients, streaming, fetch_channels);
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
    finish_statistics(problem, out);
}

void normalise(const Problem& problem, const ChannelStatistics& given, Invstd invstd) {
    const auto fill = [&](const Problem& part, const ChannelStatistics& statistics) {
        if (invstd == Invstd::kFromVariance) fill_invstd(part, statistics);
    };
    const int threads = useful_threads(problem);
    const bool streaming = worth_streaming(problem);
    const Grouping grouping = group_channels(problem, 1, threads);
    if (!normalises_by_groups(problem, grouping)) {
        fill(problem, given);
        return apply_together(problem, given, threads, streaming, kFetchAlong);
    }
    for_each_range(problem.geometry.channels, grouping.per_group, threads, [&](std::int64_t begin, std::int64_t end) {
        const Problem group = channel_range(problem, begin, end);
        const ChannelStatistics statistics = from_channel(given, begin);
        fill(group, statistics);
        apply_here(group, statistics, streaming, next_to_fetch(problem, grouping, end));
    });
}

void forward(const Problem& problem, const ChannelStatistics& out) {
    Scratch scratch;
    const int threads = useful_threads(problem);
    const BlockCounts counts = count_blocks(problem, scratch);
    const Grouping grouping = group_channels(problem, 1, threads);
    const bool streaming = worth_streaming(problem);
    const auto together = [&](std::int64_t begin, std::int64_t end) {
        const Problem group = channel_range(problem, begin, end);
        const ChannelStatistics statistics = from_channel(out, begin);
        moments_together(group, counts, threads, statistics);
        finish_statistics(group, statistics);
        apply_together(group, statistics, threads, streaming, next_to_fetch(problem, grouping, end));
    };
    const auto alone = [&](std::int64_t begin, std::int64_t end) {
        const Problem group = channel_range(problem, begin, end);
        const ChannelStatistics statistics = from_channel(out, begin);
        moments_here(group, counts, statistics);
        finish_statistics(group, statistics);
        apply_here(group, statistics, streaming, next_to_fetch(problem, grouping, end));
    };
    for_each_group(problem, grouping, threads, together, alone);
}

// --- backward ---------------------------------------------------------------------------------------------------

namespace {

BackwardTask backward_task(const Problem& problem, const Blocks& blocks, const Coefficients& coefficients,
                           bool streaming, std::int64_t fetch_channels) {
    const Operand residual = problem.backward_reads_residual() ? problem.residual : Operand{};
    return {problem.geometry, blocks,           problem.x,          residual,
            problem.dy,       problem.dx,       problem.dresidual,  coefficients,
            problem.where,    keep_of(problem), problem.activation, problem.activation_slope,
            streaming,        fetch_channels,   problem.from_output};
}

void sums_here(const Problem& problem, const Blocks& blocks, const Coefficients& coefficients, double* sum_dz,
               double* sum_dz_xmu) {
    Scratch scratch;
    const std::int64_t channels = problem.geometry.channels, pitch = padded(channels);
    const BlockSums sums =
        blocks.count <= 1 ? BlockSums{sum_dz, sum_dz_xmu} : take_block_sums(scratch, blocks.count, pitch);
    if (blocks.count == 0) {
        std::fill_n(sums.dz, channels, 0.0);
        std::fill_n(sums.dz_xmu, channels, 0.0);
    }
    kernels_of(problem).backward_sums(backward_task(problem, blocks, coefficients, false, kFetchAlong),
                                      {0, channels, 0, blocks.count, pitch}, sums);
    active_target().merge_sums(sums, blocks.count, pitch, channels);
    if (blocks.count > 1) {
        std::copy_n(sums.dz, channels, sum_dz);
        std::copy_n(sums.dz_xmu, channels, sum_dz_xmu);
    }
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
    const BackwardTask task = backward_task(problem, blocks, coefficients, false, kFetchAlong);
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
}

}  // namespace

void gradient_sums(const Problem& problem, const ChannelStatistics& saved, double* sum_dz, double* sum_dz_xmu) {
    Scratch scratch;
    const int threads = useful_threads(problem);
    const Coefficients coefficients = affine_coefficients(problem, saved, take_coefficients(scratch, problem));
    sums_together(problem, cut_blocks(problem.geometry), coefficients, threads, sum_dz, sum_dz_xmu);
    undo_prescale(problem, coefficients, sum_dz_xmu, [](std::int64_t) { return 1.0; });
}

void backward(const Problem& problem, const ChannelStatistics& saved, bool constant_statistics, const TotalSums* total,
              double* dgamma, double* dbeta) {
    const int threads = useful_threads(problem);
    const Blocks blocks = cut_blocks(problem.geometry);
    const bool streaming = worth_streaming(problem);
    const int operands = problem.backward_reads_residual() ? 3 : 2;
    const Grouping grouping = group_channels(problem, operands, threads);

    const auto totals = [&](std::int64_t channel) {
        return total != nullptr
                   ? TotalSums{total->count + channel, total->sum_dz + channel, total->sum_dz_xmu + channel}
                   : TotalSums{saved.count + channel, dbeta + channel, dgamma + channel};
    };
    const auto sweep_group = [&](std::int64_t begin, std::int64_t end, bool alone, const auto& sums,
                                 const auto& apply) {
        Problem group = channel_range(problem, begin, end);
        const ChannelStatistics statistics = from_channel(saved, begin);
        Scratch mine;
        take_keep_bits(mine, blocks, threads, alone, group);
        const MutableCoefficients memory = take_coefficients(mine, group);
        const Coefficients coefficients = affine_coefficients(group, statistics, memory);
        sums(group, coefficients, dbeta + begin, dgamma + begin);  // of dz, and of dz * (x - mean) * prescale
        gradient_coefficients(group, statistics, constant_statistics, totals(begin), total == nullptr, coefficients,
                              memory);
        undo_prescale(group, coefficients, dgamma + begin, [&](std::int64_t c) { return statistics.invstd[c]; });
        BackwardTask task =
            backward_task(group, blocks, coefficients, streaming, next_to_fetch(problem, grouping, end));
        task.keep.made = group.geometry.rows && task.keep.store != nullptr;
        apply(group, task);
    };
    const auto together = [&](std::int64_t begin, std::int64_t end) {
        sweep_group(
            begin, end, false,
            [&](const Problem& group, const Coefficients& coefficients, double* dz, double* dz_xmu) {
                sums_together(group, blocks, coefficients, threads, dz, dz_xmu);
            },
            [&](const Problem& group, const BackwardTask& task) {
                sweep_tiles(group, threads, [&](const Tile& tile) { kernels_of(group).backward(task, tile); });
            });
    };
    const auto alone = [&](std::int64_t begin, std::int64_t end) {
        sweep_group(
            begin, end, true,
            [&](const Problem& group, const Coefficients& coefficients, double* dz, double* dz_xmu) {
                sums_here(group, blocks, coefficients, dz, dz_xmu);
            },
            [&](const Problem& group, const BackwardTask& task) {
                if (group.elements() == 0) return;
                const Geometry& g = group.geometry;
                kernels_of(group).backward(task, {0, g.outer, 0, g.channels, 0, g.inner});
            });
    };
    for_each_group(problem, grouping, threads, together, alone);
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
