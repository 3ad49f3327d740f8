// Normalization of a box on the CPU: work is shared out among threads, and block results merge along fixed trees.
#pragma once

#include <optional>

#include "cpu/bound_problem.h"

namespace bnfast::cpu {

// The elements of a channel that take part.
double count_taking_part(const BoundProblem& problem);

// Fills count, mean, mean_low, m2 and invstd.
void moments(const BoundProblem& problem, const Statistics& out);

// Measures x, fills the statistics and invstd, and writes y.
void forward(const BoundProblem& problem, const Statistics& out);

// Writes y with the statistics given, of which invstd is there, or is filled from count and m2.
enum class Invstd { kThere, kFromVariance };
void normalise(const BoundProblem& problem, const Statistics& given, Invstd invstd);

// Sums over x's own elements, one of each for every channel: of the gradient dz at the affine's output, and of
// dz * (x - mean).
struct OwnSums {
    double *dz, *dz_xmu;
};
void gradient_sums(const BoundProblem& problem, const Statistics& saved, const OwnSums& out);

// The same sums over the whole (synchronised) batch, with the elements that they count.
struct TotalSums {
    const double *count, *dz, *dz_xmu;

    TotalSums from(std::int64_t channel) const { return {count + channel, dz + channel, dz_xmu + channel}; }
};

// Writes dx and dresidual; dbeta = sum dz and dgamma = sum dz * (x - mean) * invstd, one for every channel of the box.
// Mean and var depend on x: on all that the total sums are over, where they are given, or else on x alone.
struct ParameterGradients {
    double *dgamma, *dbeta;
};
enum class StatisticsAre { kConstant, kOfX };
void backward(const BoundProblem& problem, const Statistics& saved, StatisticsAre kind,
              const std::optional<TotalSums>& total, const ParameterGradients& out);

// The same where parameters lie along the inner elements: dgamma and dbeta have an entry for each of them.
void backward_along(const BoundProblem& problem, const Statistics& saved, const ParameterGradients& out);

}  // namespace bnfast::cpu
