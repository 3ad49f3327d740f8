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
    void add_gradient(const BoundProblem& problem, const Statistics& statistics, StatisticsAre kind,
                      const TotalSums& total, bool sums_are_prescaled);
    // out[c] = sums[c] * factors[c], for sums in which x - mean was multiplied by the channel's power of two.
    void undo_prescale(const BoundProblem& problem, const double* sums, const double* factors, double* out) const;

  private:
    AffineArrays affine_;
    GradientArrays gradient_;
    SumsCentre centre_;
    const double* gamma_;  // of the problem's channels, one after the other
};

}  // namespace bnfast::cpu
