// What a channel's elements are scaled with: invstd, and the coefficients of forward and backward.
//
// V is a value of float64, T the type that elements are computed in (float, or double for
// float64 x): coefficients come from float64 and are rounded
// once.
#pragma once

#include "bnfast/norm_options.h"
#include "numerics/scalar.h"

namespace bnfast::BNFAST_NUMERICS {

// --- invstd -----------------------------------------------------------------------------------------------------

template <class V>
BNFAST_INLINE V variance(V m2, V count) {
    return select(count > V(0), m2 / count, V(0));
}
// 0 where var and eps are: x - mean is 0, and so is its product.
template <class V>
BNFAST_INLINE V invstd_of(V var, double eps, EpsPlacement placement) {
    const bool in_var = placement == EpsPlacement::kVar;
    const V std = sqrt(var + V(in_var ? eps : 0.0)) + V(in_var ? 0.0 : eps);
    return select(std == V(0), V(0), V(1) / std);
}

// --- from float64 to the type computed in -----------------------------------------------------------------------

template <class T, class V>
BNFAST_INLINE auto as_computed(V value) {
    if constexpr (sizeof(T) == 8) {
        return value;
    } else {
        return narrow(value);
    }
}
template <class T, class V>
using Computed = decltype(as_computed<T>(V()));

// Finite, so that its product with zero is zero; NaN stays.
template <class T, class V>
BNFAST_INLINE Computed<T, V> finite_coefficient(V value) {
    const V largest(sizeof(T) == 8 ? 0x1.fffffffffffffp1023 : 0x1.fffffep127);
    return as_computed<T>(select(value > largest, largest, select(value < -largest, -largest, value)));
}

// --- forward ----------------------------------------------------------------------------------------------------

// Those of an AffineMap (affine.h). The prescale is a power of two, which changes no digit; it is 1 but where the scale
// of x or of gamma is extreme, and keeps what is between in range there.
template <class T, class V>
struct AffineCoefficients {
    Computed<T, V> prescale, mean_high, mean_low, scale, shift;
    V exact_prescale, exact_scale;  // in float64; the latter may be infinite
};
template <class T, class V>
BNFAST_INLINE AffineCoefficients<T, V> affine_coefficients(V mean, V mean_low, V invstd, V gamma, V beta) {
    constexpr double kExtreme = sizeof(T) == 8 ? 0x1p400 : 0x1p60;
    constexpr double kFactor = sizeof(T) == 8 ? 0x1p512 : 0x1p64;
    const V one(1), up(kFactor), down(1.0 / kFactor), extreme(kExtreme);
    const auto large = (invstd < V(1.0 / kExtreme)) & (invstd > V(0));
    const auto small = (invstd > extreme) | (abs(gamma * invstd) > extreme);
    const V prescale = select(large, down, select(small, up, one));
    const V reciprocal = select(large, up, select(small, down, one));
    const V scaled_mean = mean * prescale;
    const Computed<T, V> mean_high = as_computed<T>(scaled_mean);
    const V scale = gamma * (invstd * reciprocal);  // gamma * invstd itself may be beyond float64
    return {as_computed<T>(prescale),
            mean_high,
            as_computed<T>((scaled_mean - widen(mean_high)) + mean_low * prescale),
            finite_coefficient<T>(scale),
            as_computed<T>(beta),
            prescale,
            scale};
}

// 1 / scale, for backward from y; 0 where the scale is.
template <class T, class V>
BNFAST_INLINE Computed<T, V> inverse_scale(V exact_scale) {
    const Computed<T, V> inverse = finite_coefficient<T>(V(1) / exact_scale);
    return as_computed<T>(select(exact_scale == V(0), V(0), widen(inverse)));
}

// Whether sums of backward may be taken about zero and moved to the mean (kernels/gradient_sums.h): up to so many
// standard deviations from zero, it leaves sums about zero more digits, even at worst, than the rounding of a centred
// float32 does.
template <class V>
BNFAST_INLINE auto sums_keep_digits(V mean, V m2, V count, V exact_prescale) {
    constexpr double kFewDeviations = 65536.0;
    const auto few = mean * mean * count <= V(kFewDeviations * kFewDeviations) * m2;
    return few & (exact_prescale == V(1));
}

// --- backward ---------------------------------------------------------------------------------------------------

// The sum of dz * (x - mean) from that of dz * x.
template <class V>
BNFAST_INLINE V sum_about_mean(V sum_dz_x, V sum_dz, V mean) {
    return sum_dz_x - mean * sum_dz;
}

// The factor of mean(dz * (x - mean) * prescale) in the projection: invstd^2, of x * prescale.
template <class V>
BNFAST_INLINE V squared_invstd_of(V invstd, V prescale) {
    const V prescaled = invstd / prescale;
    return prescaled * prescaled;
}
// The same where eps is added to the standard deviation. Differentiating sqrt(var) + eps in place of sqrt(var + eps)
// replaces invstd^2 by invstd / sqrt(var); where var is zero so is x - mean, and the factor is of no account.
template <class V>
BNFAST_INLINE V squared_invstd_beside_eps(V invstd, V prescale, V m2, V count, double eps) {
    const V largest(0x1.fffffffffffffp1023), smallest(0x1p-1015), one(1);
    const auto beyond_float64 = (m2 > largest) | (m2 < count * smallest);
    const auto from_invstd = beyond_float64 & ((prescale < one) | (prescale > one));
    const V std = select(from_invstd, one / invstd - V(eps), sqrt(m2 / count));
    return select(std > V(0), invstd / prescale / (std * prescale), V(0));
}

// Those of gradient_at_input (affine.h). The sums are those of the whole batch of `count` elements, sum_dz_xmu that of
// dz * (x - mean) * prescale; a count of 0 stands for statistics that are constants.
template <class T, class V>
struct DxCoefficients {
    Computed<T, V> mean_dz, projection, dx_scale;
};
template <class T, class V>
BNFAST_INLINE DxCoefficients<T, V> dx_coefficients(V count, V sum_dz, V sum_dz_xmu, V squared_invstd, V invstd,
                                                   V gamma) {
    const auto any = count > V(0);
    const V share = V(1) / count;
    return {as_computed<T>(select(any, sum_dz * share, V(0))),
            finite_coefficient<T>(select(any, squared_invstd * (sum_dz_xmu * share), V(0))),
            finite_coefficient<T>(gamma * invstd)};
}

}  // namespace bnfast::BNFAST_NUMERICS
