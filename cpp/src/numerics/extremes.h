// float64 channels so large or so small that the squares of their deviations are beyond float64: which these are, and
// their invstd from deviations that were measured again, times a power of two.
#pragma once

#include "bnfast/norm_options.h"
#include "numerics/moments.h"

namespace bnfast::BNFAST_NUMERICS {

constexpr double kLargest = 0x1.fffffffffffffp1023;

BNFAST_INLINE bool squares_too_large(double m2) { return !(m2 <= kLargest); }  // NaN, too
// Whether squares have lost digits, or all of them, that show in invstd.
BNFAST_INLINE bool squares_too_small(double m2, double count, double eps, EpsPlacement placement) {
    // Below this variance, the rounding of squares to multiples of 2^-1074 is no longer beyond the last digit.
    constexpr double kSmallest = 0x1p-1015;
    // From these on, eps hides the variance whatever its digits.
    const double hides = placement == EpsPlacement::kVar ? 0x1p-700 : 0x1p-300;
    return eps < hides && m2 < count * kSmallest;
}

// The exponent e with which 2^-e times deviations have squares that are neither, from the largest half deviation > 0.
BNFAST_INLINE int exponent_of_scale(double largest_half) {
    constexpr int kMost = 1022;  // 2^-e is a normal number
    const int exponent = __builtin_ilogb(largest_half) + 1;
    return exponent < -kMost ? -kMost : exponent > kMost ? kMost : exponent;
}

// Of x from that of x * 2^-exponent. m2 may be inf, or a number that was only just not reached.
BNFAST_INLINE PartMoments<double> scaled_back(const PartMoments<double>& scaled, int exponent) {
    return {__builtin_scalbn(scaled.mean, exponent), __builtin_scalbn(scaled.mean_low, exponent),
            __builtin_scalbn(scaled.m2, 2 * exponent)};
}
// sqrt(a^2 + b^2), whose squares may be beyond float64.
BNFAST_INLINE double hypotenuse(double a, double b) {
    const double more = a < b ? b : a, less = b < a ? b : a;
    return less == 0 ? more : more * sqrt(1 + less / more * (less / more));
}
BNFAST_INLINE double invstd_of_scaled(double m2, double count, int exponent, double eps, EpsPlacement placement) {
    const double std = __builtin_scalbn(sqrt(m2 / count), exponent);
    return min(kLargest, 1 / (placement == EpsPlacement::kVar ? hypotenuse(std, sqrt(eps)) : std + eps));
}

}  // namespace bnfast::BNFAST_NUMERICS
