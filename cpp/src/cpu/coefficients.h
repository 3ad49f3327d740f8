// Coefficients of the affine map and of its gradient, one of each for every channel of a problem.
#pragma once

#include "cpu/bound_problem.h"
#include "cpu/norm.h"
#include "cpu/scratch.h"
#include "cpu/target.h"

namespace bnfast::cpu {

inline const ElementKernels& kernels_of(const BoundProblem& problem) {
    return active_target().elements[static_cast<int>(problem.dtype)];
}

// Whether the sums of a statistic are those of several channels, each with its own gamma.
inline bool is_weighted(const BoundProblem& problem) { return problem.share > 1; }

// What the sums of backward are of.
Sums sums_of(const BoundProblem& problem);

// Fills invstd from m2 and count.
void fill_invstd(const BoundProblem& problem, const Statistics& statistics);

// The coefficients that kernels take, and the memory in which they lie.
class ChannelCoefficients {
  public:
    // Memory for the problem's channels, and the coefficients of its affine map.
    ChannelCoefficients(Scratch& scratch, const BoundProblem& problem, const Statistics& statistics);

    const AffineArrays& affine() const { return affine_; }
    const GradientArrays& gradient() const { return gradient_; }
    const SumsCentre& centre() const { return centre_; }
    // Fills those of the gradient, from the sums of the batch that the statistics are of.
    void add_gradient(const BoundProblem& problem, StatisticsAre kind, const TotalSums& total, bool sums_are_prescaled);
    // The sums of the statistics, from those of their channels, each times its gamma; an entry for each channel, as
    // is_weighted() problems want. Channels may differ in their prescale, and sums without it may be beyond float64:
    // dgamma is neither. The result is prescaled.
    TotalSums total_of_statistics(Scratch& scratch, const BoundProblem& problem, const double* dz,
                                  const double* dgamma) const;
    // For sums in which x - mean was multiplied by the channel's power of two: out[c] = sums[c], or sums[c] *
    // invstd[c], without it.
    void undo_prescale(const BoundProblem& problem, const double* sums, double* out) const;
    void times_invstd(const BoundProblem& problem, const double* sums, double* out) const;

  private:
    template <class Factor>
    void times_factor(const BoundProblem& problem, const double* sums, const Factor& factor, double* out) const;

    AffineArrays affine_;
    GradientArrays gradient_;
    SumsCentre centre_;
    Statistics channels_;  // an entry for each of the problem's channels
    const double* gamma_;  // theirs, one after the other
};

// What the kernels of backward take, without coefficients and with them.
BackwardTask backward_task(const BoundProblem& problem, const Blocks& blocks, bool streaming,
                           std::int64_t fetch_channels);
BackwardTask backward_task(const BoundProblem& problem, const Blocks& blocks, const ChannelCoefficients& coefficients,
                           bool streaming, std::int64_t fetch_channels);

}  // namespace bnfast::cpu
