// Moments of parts of a channel: from the sums about a pivot, and merged.
//
// With a pivot p near the mean, S = sum (x - p) and Q = sum (x - p)^2 give mean = p + S / n and m2 = Q - S^2 / n
// (Chan, Golub & LeVeque 1983, shifted data). Cancellation shows where Q is much larger than m2: the mean is several
// standard deviations from p. The part is then summed again with p = its mean.
#pragma once

#include "numerics/scalar.h"

namespace bnfast::BNFAST_NUMERICS {

// The mean is the unevaluated sum mean + mean_low, m2 the sum of squared deviations from it. V is a value of float64.
template <class V>
struct PartMoments {
    V mean, mean_low, m2;
};

// a + b without an error: high is the rounded sum, low is what it lacks (Knuth).
template <class V>
struct ExactSum {
    V high, low;
};
template <class V>
BNFAST_INLINE ExactSum<V> two_sum(V a, V b) {
    const V sum = a + b;
    const V back = sum - a;
    return {sum, (a - (sum - back)) + (b - back)};
}

// Of n > 0 elements, from their sums S and Q about a pivot.
template <class V>
BNFAST_INLINE PartMoments<V> moments_about(V pivot, V n, V s, V q) {
    const V step = s / n;
    const ExactSum<V> mean = two_sum(pivot, step);
    return {mean.high, mean.low, q - s * step};
}
// Whether the pivot was near enough: up to this ratio of Q to m2 the worst-case rounding of a block's sums stays below
// 1e-12 of m2. Not where either is NaN.
template <class V>
BNFAST_INLINE auto trusted(V q, V m2) {
    constexpr double kTrusted = 32.0;
    return q <= V(kTrusted) * m2;
}

// The same for sums of short runs (sums.h): up to this ratio the mean is within 2**-20 of the standard deviation, and
// m2 within 2**-16, relative. Where Q is smaller, squares may have lost digits below the smallest float32; where it is
// larger, it is infinite.
template <class V>
BNFAST_INLINE auto trusted_in_short_runs(V q, V m2) {
    constexpr double kTrusted = 6.0, kSmallest = 0x1p-100, kLargest = 0x1p1000;
    return (q <= V(kTrusted) * m2) & (q >= V(kSmallest)) & (q <= V(kLargest));
}

// The moments of two parts of count_a and count_b elements give those of the whole (Chan, Golub & LeVeque 1979).
template <class V>
BNFAST_INLINE PartMoments<V> merged(const PartMoments<V>& a, const PartMoments<V>& b, double count_a, double count_b) {
    if (count_b == 0.0) return a;
    if (count_a == 0.0) return b;
    const V delta = (b.mean - a.mean) + (b.mean_low - a.mean_low);
    const V step = delta * V(count_b / (count_a + count_b));
    const ExactSum<V> sum = two_sum(a.mean, step);
    const V low = sum.low + a.mean_low;
    const V mean = sum.high + low;
    return {mean, low - (mean - sum.high), (a.m2 + b.m2) + delta * step * V(count_a)};
}

// Deviations from zero in place of the mean.
template <class V>
BNFAST_INLINE PartMoments<V> about_zero(const PartMoments<V>& moments, V count) {
    return {V(0), V(0), moments.m2 + count * (moments.mean * moments.mean)};
}

}  // namespace bnfast::BNFAST_NUMERICS
