// Backward where parameters lie along the inner elements (layer norm): a sweep that sums, over each channel for its
// statistic and over channels for each parameter, and one that writes.
#include <algorithm>

#include "cpu/blocks.h"
#include "cpu/coefficients.h"
#include "cpu/norm.h"
#include "cpu/prologue.h"
#include "cpu/schedule.h"
#include "numerics/blocks.h"
#include "numerics/sums.h"

namespace bnfast::cpu {
namespace {

// What the kernels write: the gradient at the norm's input. With dropout before the norm that is not dx yet; where it
// is wanted as the residual's, it goes there first.
Operand gradient_of(const BoundProblem& problem) {
    return problem.prologue.used && problem.dresidual.data != nullptr ? problem.dresidual : problem.dx;
}

// Work on all channels of a call: sums of the parameters, by blocks of channels.
class AlongBackward {
  public:
    AlongBackward(const BoundProblem& problem, const Statistics& saved)
        : problem_(problem),
          saved_(saved),
          blocks_(numerics::cut_blocks(problem.geometry)),
          channel_blocks_(numerics::cut_channels(problem.geometry.channels)),
          parameters_(saved.parameters),
          pitch_(padded(saved.parameters)),
          threads_(useful_threads(problem.elements())),
          streaming_(worth_streaming(problem) && !problem.prologue.used) {
        const std::int64_t entries = std::max<std::int64_t>(channel_blocks_.count, 1) * pitch_;
        sums_ = {scratch_.take<double>(entries), scratch_.take<double>(entries)};
    }

    void run(const ParameterGradients& out) {
        const int operands = problem_.dh.data != nullptr ? 3 : 2;
        const AlongGrouping grouping = group_along(problem_, channel_blocks_, operands, threads_);
        if (problem_.elements() > 0) {
            grouping.shared ? together() : alone(grouping.channels);
        }
        merge(out);
    }

  private:
    ParameterSums sums_of_block(std::int64_t block) const {
        return {sums_.dbeta + block * pitch_, sums_.dgamma + block * pitch_};
    }
    std::int64_t block_end(std::int64_t block) const {
        return std::min(problem_.geometry.channels, (block + 1) * channel_blocks_.channels);
    }
    BackwardTask task(const BoundProblem& group, const ChannelCoefficients& coefficients, bool streaming) const {
        BackwardTask result = backward_task(group, blocks_, coefficients, streaming, kFetchAlong);
        result.dx = gradient_of(group);
        result.dh = group.dh;
        if (problem_.prologue.used) result.dresidual = Operand{};  // that is of a residual behind the map
        return result;
    }
    OwnSums take_sums(Scratch& scratch, std::int64_t channels) const {
        const std::int64_t entries = std::max<std::int64_t>(blocks_.count, 1) * padded(channels);
        return {scratch.take<double>(entries), scratch.take<double>(entries)};
    }
    // Of the statistics, once the sums of all blocks of their channels are there.
    void finish_sums(const BoundProblem& group, const OwnSums& own, ChannelCoefficients& coefficients,
                     const Statistics& statistics) const {
        active_target().merge_sums({own.dz, own.dz_xmu}, blocks_.count, padded(group.geometry.channels),
                                   group.geometry.channels);
        coefficients.add_gradient(group, StatisticsAre::kOfX, {statistics.count, own.dz, own.dz_xmu}, true);
    }

    // A block of channels to each thread, and of these as many at once as stay in its cache.
    void alone(std::int64_t at_once) const {
        parallel_for(channel_blocks_.count, threads_, [&](std::int64_t block) {
            const ParameterSums sums = sums_of_block(block);
            std::fill_n(sums.dbeta, parameters_, 0.0);
            std::fill_n(sums.dgamma, parameters_, 0.0);
            const std::int64_t end_of_block = block_end(block);
            for (std::int64_t begin = block * channel_blocks_.channels, end; begin < end_of_block; begin = end) {
                end = std::min(begin + at_once, end_of_block);
                Scratch scratch;
                const BoundProblem group = channel_range(problem_, begin, end);
                const Statistics statistics = saved_.from(begin);
                ChannelCoefficients coefficients(scratch, group, statistics);
                const OwnSums own = take_sums(scratch, end - begin);
                BackwardTask part = task(group, coefficients, streaming_);
                kernels_of(group).backward_sums_along(part, {0, end - begin, 0, blocks_.count, padded(end - begin)},
                                                      {own.dz, own.dz_xmu}, sums);
                finish_sums(group, own, coefficients, statistics);
                part.gradient = coefficients.gradient();
                part.fetch_channels = kFetchNothing;
                kernels_of(group).backward(part, {0, 1, 0, end - begin, 0, group.geometry.inner});
                if (group.prologue.used) apply_prologue_backward(group, gradient_of(group), 1);
            }
        });
    }

    // All threads on all channels: each block of channels and block of their elements is a task.
    void together() {
        Scratch scratch;
        ChannelCoefficients coefficients(scratch, problem_, saved_);
        const std::int64_t channels = problem_.geometry.channels, pitch = padded(channels);
        const OwnSums own = take_sums(scratch, channels);
        BackwardTask all = task(problem_, coefficients, streaming_);
        parallel_for(channel_blocks_.count * blocks_.count, threads_, [&](std::int64_t k) {
            const std::int64_t block = k / blocks_.count, piece = k % blocks_.count;
            const ParameterSums sums = sums_of_block(block);
            const BlockSpan span = numerics::span_of(problem_.geometry, blocks_, piece);
            for (std::int64_t p = 0; p < problem_.along.period; ++p) {
                const std::int64_t first = p * problem_.geometry.inner + span.inner_begin;
                std::fill_n(sums.dbeta + first, span.inner_end - span.inner_begin, 0.0);
                std::fill_n(sums.dgamma + first, span.inner_end - span.inner_begin, 0.0);
            }
            const std::int64_t begin = block * channel_blocks_.channels, at = piece * pitch + begin;
            kernels_of(problem_).backward_sums_along(all, {begin, block_end(block), piece, piece + 1, pitch},
                                                     {own.dz + at, own.dz_xmu + at}, sums);
        });
        finish_sums(problem_, own, coefficients, saved_);
        all.gradient = coefficients.gradient();
        sweep_tiles(problem_, threads_, [&](const Tile& tile) { kernels_of(problem_).backward(all, tile); });
        if (problem_.prologue.used) apply_prologue_backward(problem_, gradient_of(problem_), threads_);
    }

    void merge(const ParameterGradients& out) {
        const std::int64_t blocks = problem_.elements() > 0 ? channel_blocks_.count : 0;
        if (blocks == 0) {
            std::fill_n(out.dgamma, parameters_, 0.0);
            std::fill_n(out.dbeta, parameters_, 0.0);
            return;
        }
        for_each_range(parameters_, channels_per_task(parameters_, threads_), threads_,
                       [&](std::int64_t begin, std::int64_t end) {
                           active_target().merge_sums({sums_.dbeta + begin, sums_.dgamma + begin}, blocks, pitch_,
                                                      end - begin);
                           std::copy(sums_.dgamma + begin, sums_.dgamma + end, out.dgamma + begin);
                           std::copy(sums_.dbeta + begin, sums_.dbeta + end, out.dbeta + begin);
                       });
    }

    const BoundProblem& problem_;
    const Statistics& saved_;
    const Blocks blocks_;
    const ChannelBlocks channel_blocks_;
    const std::int64_t parameters_, pitch_;
    const int threads_;
    const bool streaming_;
    Scratch scratch_;
    ParameterSums sums_;  // [block][parameter]
};

}  // namespace

void backward_along(const BoundProblem& problem, const Statistics& saved, const ParameterGradients& out) {
    AlongBackward(problem, saved).run(out);
}

}  // namespace bnfast::cpu
