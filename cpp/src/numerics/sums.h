// The order in which partial sums are added to one: of the lanes of a vector, of the elements of a flat row, of blocks.
#pragma once

#include <cstdint>

#include "numerics/blocks.h"
#include "numerics/scalar.h"

namespace bnfast::BNFAST_NUMERICS {

// The sum of the lanes along a tree; leaves partial sums in them.
BNFAST_INLINE double sum_along_tree(double (&lane)[kLanes]) {
    BNFAST_UNROLL for (int half = kLanes / 2; half > 0; half /= 2) {
        BNFAST_UNROLL for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
    }
    return lane[0];
}

// A short run of 16-bit elements: so many vectors, or rows, are summed in float32, even and odd ones apart, and only
// the sums of both in float64. (In layer norm's gradients, of elements of any type and in the type computed in, all of
// them one after the other.)
constexpr int kShortRun = 16;

// Whether sums of dz and of dz * (x - mean) in short runs are right: they did not leave float32, and products that lost
// digits below its smallest numbers are nothing beside their sum.
template <class V>
BNFAST_INLINE auto sums_stand(V dz, V product) {
    const V smallest(0x1p-100), largest(0x1.fffffffffffffp1023);
    return (abs(dz) <= largest) & (abs(product) <= largest) & (abs(product) >= smallest);
}

// Calls merge(a, b, end) for every merger of blocks: block a, by then all of a to b - 1, absorbs block b, by then all
// of b to end - 1. A tree that depends on the number of blocks alone.
template <class Merge>
BNFAST_INLINE void for_each_merger(std::int64_t blocks, Merge merge) {
    for (std::int64_t step = 1; step < blocks; step *= 2) {
        for (std::int64_t a = 0; a + step < blocks; a += 2 * step) {
            merge(a, a + step, a + 2 * step < blocks ? a + 2 * step : blocks);
        }
    }
}

// Sums of the elements of flat rows become those of their channels: values[c] is the sum of those of channel c, in
// order.

// Planes: those of channel c are values[c * count] on. Planes of fewer than 16 elements have a loop for each size:
// there may be thousands of channels with one plane each. That for kLanes is the loop for all other sizes.
template <int kCount = 2>
BNFAST_INLINE void fold_planes(std::int64_t count, std::int64_t channels, double* values) {
    if (count == kCount || kCount == kLanes) {
        for (std::int64_t c = 0; c < channels; ++c) {
            const std::int64_t n = kCount < kLanes ? kCount : count;
            const double* element = values + c * n;
            double sum = element[0];
            for (std::int64_t e = 1; e < n; ++e) sum += element[e];
            values[c] = sum;
        }
    } else if constexpr (kCount < kLanes) {
        fold_planes<kCount + 1>(count, channels, values);
    }
}
// Rows: those of channel c are values[c], values[c + channels] and so on.
BNFAST_INLINE void fold_rows(std::int64_t count, std::int64_t channels, double* values) {
    for (std::int64_t e = 1; e < count; ++e) {
        for (std::int64_t c = 0; c < channels; ++c) values[c] += values[e * channels + c];
    }
}

}  // namespace bnfast::BNFAST_NUMERICS
