// Statistics of a batch and sums of its gradients, which merge: those of two parts give those of the whole.
#pragma once

#include <vector>

namespace bnfast {

// Of each channel: count, mean (as mean + mean_low) and m2, the sum of squared deviations from the mean.
struct Moments {
    std::vector<double> count, mean, mean_low, m2;
};

// Of each channel: sums of dy at the affine's output (after the activation's derivative), and of dy * (x - mean).
struct GradientSums {
    std::vector<double> count, sum_dy, sum_dy_xmu;
};

}  // namespace bnfast
