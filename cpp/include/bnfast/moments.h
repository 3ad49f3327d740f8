// Statistics of a batch and sums of its gradients, which merge: those of two parts give those of the whole.
#pragma once

#include <cstdint>
#include <vector>

#include "bnfast/export.h"

namespace bnfast {

// Of each channel: count, mean and m2, the sum of squared deviations from the mean. The mean is mean + mean_low: what
// float64 has no room for is in the second number.
struct Moments {
    std::vector<std::int64_t> count;
    std::vector<double> mean, mean_low, m2;
};

// Of each channel: sums of the gradient at the affine map's output (dy times the activation's derivative), and of its
// product with x - mean.
struct GradientSums {
    std::vector<std::int64_t> count;
    std::vector<double> sum_dy, sum_dy_xmu;
};

// Merges `other` into `into`, which then describes the elements of both. Where one of them counts no element, that is
// the other, bit for bit. ValueError where they differ in the number of channels, or where a count would be beyond
// int64: nothing has been changed then.
BNFAST_API void merge(Moments& into, const Moments& other);
BNFAST_API void merge(GradientSums& into, const GradientSums& other);

}  // namespace bnfast
