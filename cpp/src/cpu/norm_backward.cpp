// Backward, in two sweeps: one sums, one writes. Groups of channels stay in a core's cache between the two, or each
// sweep is one of the whole.
#include <algorithm>

#include "cpu/blocks.h"
#include "cpu/coefficients.h"
#include "cpu/mask_task.h"
#include "cpu/norm.h"
#include "cpu/schedule.h"
#include "numerics/blocks.h"

namespace bnfast::cpu {

BackwardTask backward_task(const BoundProblem& problem, const Blocks& blocks, bool streaming,
                           std::int64_t fetch_channels) {
    BackwardTask task;
    task.geometry = problem.geometry;
    task.blocks = blocks;
    task.x = problem.x;
    if (problem.backward_reads_residual()) task.residual = problem.residual;
    task.dy = problem.dy;
    task.dx = problem.dx;
    task.dresidual = problem.dresidual;
    task.along = problem.along;
    task.where = problem.where;
    task.mask = mask_task_of(problem);
    task.activation = {problem.activation, problem.activation_slope, problem.from_output};
    task.streaming = streaming;
    task.fetch_channels = fetch_channels;
    task.sums = sums_of(problem);
    return task;
}

BackwardTask backward_task(const BoundProblem& problem, const Blocks& blocks, const ChannelCoefficients& coefficients,
                           bool streaming, std::int64_t fetch_channels) {
    BackwardTask task = backward_task(problem, blocks, streaming, fetch_channels);
    task.affine = coefficients.affine();
    task.gradient = coefficients.gradient();
    task.centre = coefficients.centre();
    return task;
}

namespace {

void sums_here(const BoundProblem& problem, const Blocks& blocks, const ChannelCoefficients& coefficients,
               const OwnSums& out) {
    Scratch scratch;
    const std::int64_t channels = problem.geometry.channels, pitch = padded(channels);
    const BlockSums sums =
        blocks.count <= 1 ? BlockSums{out.dz, out.dz_xmu} : take_block_sums(scratch, blocks.count, pitch);
    if (blocks.count == 0) {
        std::fill_n(sums.dz, channels, 0.0);
        std::fill_n(sums.dz_xmu, channels, 0.0);
    }
    kernels_of(problem).backward_sums(backward_task(problem, blocks, coefficients, false, kFetchAlong),
                                      {0, channels, 0, blocks.count, pitch}, sums);
    active_target().merge_sums(sums, blocks.count, pitch, channels);
    if (blocks.count > 1) {
        std::copy_n(sums.dz, channels, out.dz);
        std::copy_n(sums.dz_xmu, channels, out.dz_xmu);
    }
}

void sums_together(const BoundProblem& problem, const Blocks& blocks, const BlockSweep& sweep,
                   const ChannelCoefficients& coefficients, int threads, const OwnSums& out) {
    Scratch scratch;
    const std::int64_t channels = problem.geometry.channels, pitch = padded(channels);
    const BlockSums sums = take_block_sums(scratch, std::max<std::int64_t>(blocks.count, 1), pitch);
    if (blocks.count == 0) {
        std::fill_n(sums.dz, pitch, 0.0);
        std::fill_n(sums.dz_xmu, pitch, 0.0);
    }
    const BackwardTask task = backward_task(problem, blocks, coefficients, false, kFetchAlong);
    parallel_for(sweep.tasks(), threads, [&](std::int64_t k) {
        const BlockRange range = sweep.range(k, pitch);
        const std::int64_t at = range.block_begin * pitch + range.channel_begin;
        kernels_of(problem).backward_sums(task, range, {sums.dz + at, sums.dz_xmu + at});
    });
    for_each_range(channels, channels_merged_together(), threads, [&](std::int64_t begin, std::int64_t end) {
        active_target().merge_sums({sums.dz + begin, sums.dz_xmu + begin}, blocks.count, pitch, end - begin);
        std::copy(sums.dz + begin, sums.dz + end, out.dz + begin);
        std::copy(sums.dz_xmu + begin, sums.dz_xmu + end, out.dz_xmu + begin);
    });
}

}  // namespace

void gradient_sums(const BoundProblem& problem, const Statistics& saved, const OwnSums& out) {
    Scratch scratch;
    const int threads = useful_threads(problem.elements());
    const ChannelCoefficients coefficients(scratch, problem, saved);
    const Blocks blocks = numerics::cut_blocks(problem.geometry);
    sums_together(problem, blocks, cut_blocks_into_tasks(problem, blocks, threads), coefficients, threads, out);
    coefficients.undo_prescale(problem, out.dz_xmu, out.dz_xmu);
}

void backward(const BoundProblem& problem, const Statistics& saved, StatisticsAre kind,
              const std::optional<TotalSums>& total, const ParameterGradients& out) {
    const int threads = useful_threads(problem.elements());
    const Blocks blocks = numerics::cut_blocks(problem.geometry);
    const bool streaming = worth_streaming(problem);
    const int operands = problem.backward_reads_residual() ? 3 : 2;
    const Grouping grouping = group_channels(problem, operands, threads);
    const std::int64_t channels = problem.geometry.channels;

    // sum(group, sweep, coefficients, sums) and then apply(group, task), over channels [begin, end).
    const auto sweep_group = [&](std::int64_t begin, std::int64_t end, bool alone, const auto& sum, const auto& apply) {
        BoundProblem group = channel_range(problem, begin, end);
        const Statistics statistics = saved.from(begin);
        Scratch scratch;
        const BlockSweep sweep = cut_blocks_into_tasks(group, blocks, threads);
        take_stored_mask(scratch, blocks, sweep, alone, group);
        ChannelCoefficients coefficients(scratch, group, statistics);
        // Of dz, and of dz * (x - mean) * prescale.
        const OwnSums own{scratch.take<double>(padded(end - begin)), scratch.take<double>(padded(end - begin))};
        sum(group, sweep, coefficients, own);
        std::copy_n(own.dz, end - begin, out.dbeta + begin);
        coefficients.times_invstd(group, own.dz_xmu, out.dgamma + begin);
        if (is_weighted(group)) {
            const TotalSums of_statistics =
                coefficients.total_of_statistics(scratch, group, own.dz, out.dgamma + begin);
            coefficients.add_gradient(group, kind, of_statistics, true);
        } else {
            const TotalSums of_batch = total ? total->from(begin) : TotalSums{statistics.count, own.dz, own.dz_xmu};
            coefficients.add_gradient(group, kind, of_batch, !total);
        }
        BackwardTask task =
            backward_task(group, blocks, coefficients, streaming, grouping.next_to_fetch(end, channels));
        task.mask.stored.complete = group.geometry.rows && task.mask.stored.is_there();
        apply(group, task);
    };
    const auto together = [&](std::int64_t begin, std::int64_t end) {
        sweep_group(
            begin, end, false,
            [&](const BoundProblem& group, const BlockSweep& sweep, const ChannelCoefficients& coefficients,
                const OwnSums& sums) { sums_together(group, blocks, sweep, coefficients, threads, sums); },
            [&](const BoundProblem& group, const BackwardTask& task) {
                sweep_tiles(group, threads, [&](const Tile& tile) { kernels_of(group).backward(task, tile); });
            });
    };
    const auto alone = [&](std::int64_t begin, std::int64_t end) {
        sweep_group(
            begin, end, true,
            [&](const BoundProblem& group, const BlockSweep&, const ChannelCoefficients& coefficients,
                const OwnSums& sums) { sums_here(group, blocks, coefficients, sums); },
            [&](const BoundProblem& group, const BackwardTask& task) {
                if (group.elements() == 0) return;
                const Geometry& g = group.geometry;
                kernels_of(group).backward(task, {0, g.outer, 0, g.channels, 0, g.inner});
            });
    };
    for_each_group(problem, grouping, threads, together, alone);
}

}  // namespace bnfast::cpu
