// Backward where parameters lie along the inner elements (layer norm): a sweep that sums, over each channel for its
// statistic and over channels for each parameter, and one that writes.
#include <algorithm>

#include "cpu/blocks.h"
#include "cpu/coefficients.h"
#include "cpu/norm.h"
#include "cpu/prologue.h"
#include "cpu/schedule.h"
#include "numerics/blocks.h"

namespace bnfast::cpu {
namespace {

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
          streaming_(worth_streaming(problem)) {
        const std::int64_t entries = std::max<std::int64_t>(channel_blocks_.count, 1) * pitch_;
        sums_ = {scratch_.take<double>(entries), scratch_.take<double>(entries)};
    }

    void run(const ParameterGradients& out) {
        const int operands = problem_.dh.is_there() ? 3 : 2;
        if (problem_.elements() > 0) {
            works_together_along(problem_, blocks_, channel_blocks_.count, operands, threads_) ? together() : alone();
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
    void add_operands(BackwardTask& task) const {
        task.dh = problem_.dh;
        task.before = mask_before(problem_);
    }
    // A block of channels to each thread.
    void alone() const {
        AlongBackwardTask part;
        part.backward = backward_task(problem_, blocks_, streaming_, kFetchNothing);
        add_operands(part.backward);
        part.statistics = {saved_.count, saved_.mean, saved_.mean_low, saved_.m2, saved_.invstd};
        part.gradient.about_zero = problem_.centre == Centre::kZero;
        part.gradient.sums_are_prescaled = true;
        part.gradient.eps = problem_.eps;
        part.gradient.placement = problem_.eps_placement;
        parallel_for(channel_blocks_.count, threads_, [&](std::int64_t block) {
            const ParameterSums sums = sums_of_block(block);
            std::fill_n(sums.dbeta, parameters_, 0.0);
            std::fill_n(sums.dgamma, parameters_, 0.0);
            kernels_of(problem_).backward_along(part, block * channel_blocks_.channels, block_end(block), sums);
        });
    }

    // All threads on all channels: each block of channels and block of their elements is a task.
    void together() {
        Scratch scratch;
        ChannelCoefficients coefficients(scratch, problem_, saved_);
        const std::int64_t channels = problem_.geometry.channels, pitch = padded(channels);
        const BlockSums own = take_block_sums(scratch, blocks_.count, pitch);
        BackwardTask all = backward_task(problem_, blocks_, coefficients, streaming_, kFetchAlong);
        add_operands(all);
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
        active_target().merge_sums(own, blocks_.count, pitch, channels);
        coefficients.add_gradient(problem_, StatisticsAre::kOfX, {saved_.count, own.dz, own.dz_xmu}, true);
        all.gradient = coefficients.gradient();
        sweep_tiles(problem_, threads_, [&](const Tile& tile) { kernels_of(problem_).backward(all, tile); });
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
