// Forward, in two sweeps: one measures, one writes. Groups of channels stay in a core's cache between the two, or each
// sweep is one of the whole.
#include <algorithm>

#include "cpu/blocks.h"
#include "cpu/coefficients.h"
#include "cpu/extremes.h"
#include "cpu/mask_task.h"
#include "cpu/norm.h"
#include "cpu/prologue.h"
#include "cpu/schedule.h"
#include "numerics/moments.h"
#include "numerics/sums.h"

namespace bnfast::cpu {
namespace {

// The moments of `share` channels of `count` elements each, merged along the tree.
numerics::PartMoments<double> merge_channels(const BlockMoments& channels, std::int64_t share, double count) {
    numerics::for_each_merger(share, [&](std::int64_t a, std::int64_t b, std::int64_t end) {
        const auto part = [&](std::int64_t c) {
            return numerics::PartMoments<double>{channels.mean[c], channels.mean_low[c], channels.m2[c]};
        };
        const auto both = numerics::merged(part(a), part(b), count * static_cast<double>(b - a),
                                           count * static_cast<double>(end - b));
        channels.mean[a] = both.mean;
        channels.mean_low[a] = both.mean_low;
        channels.m2[a] = both.m2;
    });
    return {channels.mean[0], channels.mean_low[0], channels.m2[0]};
}

// The statistics of channels whose blocks have been merged.
void store_moments(const BlockMoments& merged, std::int64_t channels, std::int64_t share, const BlockCounts& counts,
                   const Statistics& out) {
    const std::int64_t statistics = channels / share;
    std::fill_n(out.count, statistics, counts.total * static_cast<double>(share));
    if (counts.blocks.count == 0) {
        std::fill_n(out.mean, statistics, 0.0);
        std::fill_n(out.mean_low, statistics, 0.0);
        std::fill_n(out.m2, statistics, 0.0);
    } else if (share > 1) {
        for (std::int64_t s = 0; s < statistics; ++s) {
            const std::int64_t c = s * share;
            const auto moments =
                merge_channels({merged.mean + c, merged.mean_low + c, merged.m2 + c}, share, counts.total);
            out.mean[s] = moments.mean;
            out.mean_low[s] = moments.mean_low;
            out.m2[s] = moments.m2;
        }
    } else if (merged.mean != out.mean) {  // a single block is measured in place
        std::copy_n(merged.mean, statistics, out.mean);
        std::copy_n(merged.mean_low, statistics, out.mean_low);
        std::copy_n(merged.m2, statistics, out.m2);
    }
}

MomentsTask moments_task(const BoundProblem& problem, const BlockCounts& counts) {
    return {problem.geometry, counts.blocks, problem.x, problem.where, counts.each};
}

// Moments of all channels, by the calling thread.
void moments_here(const BoundProblem& problem, const BlockCounts& counts, const Statistics& out) {
    Scratch scratch;
    const std::int64_t channels = problem.geometry.channels, pitch = padded(channels);
    const BlockMoments blocks =
        counts.blocks.count == 1 && problem.share == 1
            ? BlockMoments{out.mean, out.mean_low, out.m2}
            : take_block_moments(scratch, std::max<std::int64_t>(counts.blocks.count, 1), pitch);
    kernels_of(problem).moments(moments_task(problem, counts), {0, channels, 0, counts.blocks.count, pitch}, blocks);
    active_target().merge_moments(blocks, counts.each, counts.blocks.count, pitch, channels);
    store_moments(blocks, channels, problem.share, counts, out);
}

// Moments of all channels by all threads, blocks shared out.
void moments_together(const BoundProblem& problem, const BlockCounts& counts, int threads, const Statistics& out) {
    Scratch scratch;
    const std::int64_t channels = problem.geometry.channels, pitch = padded(channels);
    const BlockMoments blocks = take_block_moments(scratch, std::max<std::int64_t>(counts.blocks.count, 1), pitch);
    const MomentsTask task = moments_task(problem, counts);
    const BlockSweep sweep = cut_blocks_into_tasks(problem, counts.blocks, threads);
    parallel_for(sweep.tasks(), threads, [&](std::int64_t k) {
        const BlockRange range = sweep.range(k, pitch);
        const std::int64_t at = range.block_begin * pitch + range.channel_begin;
        kernels_of(problem).moments(task, range, {blocks.mean + at, blocks.mean_low + at, blocks.m2 + at});
    });
    const std::int64_t together = whole_statistics(problem, channels_merged_together());
    for_each_range(channels, together, threads, [&](std::int64_t begin, std::int64_t end) {
        const BlockMoments part{blocks.mean + begin, blocks.mean_low + begin, blocks.m2 + begin};
        active_target().merge_moments(part, counts.each, counts.blocks.count, pitch, end - begin);
        store_moments(part, end - begin, problem.share, counts, out.from(begin));
    });
}

// What comes behind the measuring of x.
void finish_statistics(const BoundProblem& problem, const Statistics& s) {
    for (std::int64_t i = 0; problem.centre == Centre::kZero && i < problem.statistics(); ++i) {
        const auto about_zero =
            numerics::about_zero(numerics::PartMoments<double>{s.mean[i], s.mean_low[i], s.m2[i]}, s.count[i]);
        s.mean[i] = about_zero.mean;
        s.mean_low[i] = about_zero.mean_low;
        s.m2[i] = about_zero.m2;
    }
    fill_invstd(problem, s);
    measure_extremes(problem, s);
}

ForwardTask forward_task(const BoundProblem& problem, bool streaming) {
    ForwardTask task;
    task.geometry = problem.geometry;
    task.x = problem.x;
    task.residual = problem.residual;
    task.y = problem.y;
    task.along = problem.along;
    task.where = problem.where;
    task.mask = mask_task_of(problem);
    task.activation = {problem.activation, problem.activation_slope};
    task.streaming = streaming;
    return task;
}
ForwardTask forward_task(const BoundProblem& problem, const ChannelCoefficients& coefficients, bool streaming,
                         std::int64_t fetch_channels) {
    ForwardTask task = forward_task(problem, streaming);
    task.affine = coefficients.affine();
    task.fetch_channels = fetch_channels;
    return task;
}

void apply_here(const BoundProblem& problem, const Statistics& s, bool streaming, std::int64_t fetch_channels) {
    if (problem.elements() == 0) return;  // or empty runs are walked one by one
    Scratch scratch;
    const ChannelCoefficients coefficients(scratch, problem, s);
    const Geometry& g = problem.geometry;
    kernels_of(problem).forward(forward_task(problem, coefficients, streaming, fetch_channels),
                                {0, g.outer, 0, g.channels, 0, g.inner});
}

void apply_together(const BoundProblem& problem, const Statistics& s, int threads, bool streaming,
                    std::int64_t fetch_channels) {
    Scratch scratch;
    const ChannelCoefficients coefficients(scratch, problem, s);
    const ForwardTask task = forward_task(problem, coefficients, streaming, fetch_channels);
    sweep_tiles(problem, threads, [&](const Tile& tile) { kernels_of(problem).forward(task, tile); });
}

// Channels whose parameters lie along their elements, each measured and normalised by one kernel.
void forward_along(const BoundProblem& problem, const BlockCounts& counts, int threads, bool streaming,
                   const Statistics& out) {
    AlongForwardTask task;
    task.forward = forward_task(problem, streaming);
    if (problem.prologue.used) task.prologue = prologue_task(problem);
    task.blocks = counts.blocks;
    task.block_counts = counts.each;
    task.statistics = {out.count, out.mean, out.mean_low, out.m2, out.invstd};
    task.about_zero = problem.centre == Centre::kZero;
    task.eps = problem.eps;
    task.placement = problem.eps_placement;
    const std::int64_t channels = problem.geometry.channels;
    for_each_range(channels, channels_per_task(channels, threads), threads,
                   [&](std::int64_t begin, std::int64_t end) { kernels_of(problem).forward_along(task, begin, end); });
}

}  // namespace

double count_taking_part(const BoundProblem& problem) {
    Scratch scratch;
    return count_blocks(problem, scratch).total;
}

void moments(const BoundProblem& problem, const Statistics& out) {
    Scratch scratch;
    const int threads = useful_threads(problem.elements());
    const BlockCounts counts = count_blocks(problem, scratch);
    if (threads == 1) {
        moments_here(problem, counts, out);
    } else {
        moments_together(problem, counts, threads, out);
    }
    finish_statistics(problem, out);
}

void normalise(const BoundProblem& problem, const Statistics& given, Invstd invstd) {
    const auto fill = [&](const BoundProblem& part, const Statistics& statistics) {
        if (invstd == Invstd::kFromVariance) fill_invstd(part, statistics);
    };
    const int threads = useful_threads(problem.elements());
    const bool streaming = worth_streaming(problem);
    const Grouping grouping = group_channels(problem, 1, threads);
    if (!normalises_by_groups(problem, grouping)) {
        fill(problem, given);
        return apply_together(problem, given, threads, streaming, kFetchAlong);
    }
    const std::int64_t channels = problem.geometry.channels;
    for_each_range(channels, grouping.per_group, threads, [&](std::int64_t begin, std::int64_t end) {
        const BoundProblem group = channel_range(problem, begin, end);
        const Statistics statistics = given.from(begin);
        fill(group, statistics);
        apply_here(group, statistics, streaming, grouping.next_to_fetch(end, channels));
    });
}

void forward(const BoundProblem& problem, const Statistics& out) {
    Scratch scratch;
    const int threads = useful_threads(problem.elements());
    const BlockCounts counts = count_blocks(problem, scratch);
    const int operands = problem.prologue.used ? 3 : 1;
    const Grouping grouping = group_channels(problem, operands, threads);
    const bool streaming = worth_streaming(problem);
    const std::int64_t channels = problem.geometry.channels;
    const bool may_be_extreme = problem.dtype == DType::kFloat64;  // and then be measured again
    if (problem.along.used && problem.elements() > 0 && !may_be_extreme &&
        !works_together_along(problem, counts.blocks, channels, operands, threads)) {
        return forward_along(problem, counts, threads, streaming, out);
    }
    const auto together = [&](std::int64_t begin, std::int64_t end) {
        const BoundProblem group = channel_range(problem, begin, end);
        const Statistics statistics = out.from(begin);
        if (problem.prologue.used) apply_prologue(group, threads);
        moments_together(group, counts, threads, statistics);
        finish_statistics(group, statistics);
        apply_together(group, statistics, threads, streaming, grouping.next_to_fetch(end, channels));
    };
    const auto alone = [&](std::int64_t begin, std::int64_t end) {
        const BoundProblem group = channel_range(problem, begin, end);
        const Statistics statistics = out.from(begin);
        if (problem.prologue.used) apply_prologue(group, 1);
        moments_here(group, counts, statistics);
        finish_statistics(group, statistics);
        apply_here(group, statistics, streaming, grouping.next_to_fetch(end, channels));
    };
    for_each_group(problem, grouping, threads, together, alone);
}

}  // namespace bnfast::cpu
