// Elementary functions: exp, expm1, log1p, tanh and the tail of the normal distribution.
//
// Branch-free, one formula for all lanes, only the operations of scalar.h: the same bits on every
// target. The methods are the classical ones (argument reduction by ln 2 held in two parts, Cody &
// Waite 1980; a rational function for the Mills ratio); all coefficients were fitted for this file
// with mpmath. NaN passes through everywhere: constants come first in min and max because those
// return their second argument when either is NaN. Errors are in ulp of the exact result, as float
// / double. Measured: float on every 31st bit pattern (1.4e8 values of all magnitudes) against libm
// in double, double on 2e6 random values (tiny to limit) against libquadmath.
#pragma once

#include "numerics/scalar.h"

namespace bnfast::BNFAST_NUMERICS {

// c0 + c1 x + c2 x**2 + ... by Horner's rule.
template <class V>
BNFAST_INLINE V polynomial(V, Scalar<V> c0) {
    return V(c0);
}
template <class V, class... Rest>
BNFAST_INLINE V polynomial(V x, Scalar<V> c0, Rest... rest) {
    return V(c0) + x * polynomial(x, rest...);
}

template <class T>
struct ExpConstants;

// kLn2High has so few bits that its product with any exponent is exact. At kLowest and kHighest the
// exponent is one below and one above that of the normal numbers, which pow2n turns into 0 and
// infinity: the limits need no select.
template <>
struct ExpConstants<float> {
    static constexpr float kLog2E = 1.44269504F;
    static constexpr float kLn2High = 0.693145752F;  // 16 bits
    static constexpr float kLn2Low = 1.42860682e-6F;
    static constexpr float kLowest = -88.0F;
    static constexpr float kHighest = 89.0F;
    static constexpr float kTailEnd = 13.25F;   // exp(-kTailEnd**2 / 2) is 0 for the same reason
    static constexpr float kSaturated = 20.0F;  // 1 + 2 exp(-kSaturated) rounds to 1
    static constexpr float kAboveMinusOne = -0.99999994F;
};

template <>
struct ExpConstants<double> {
    static constexpr double kLog2E = 1.4426950408889634;
    static constexpr double kLn2High = 0.6931471805598903;  // 42 bits
    static constexpr double kLn2Low = 5.497923018708371e-14;
    static constexpr double kLowest = -709.0;
    static constexpr double kHighest = 710.0;
    static constexpr double kTailEnd = 37.66;
    static constexpr double kSaturated = 40.0;
    static constexpr double kAboveMinusOne = -0.9999999999999999;
};

// (exp(r) - 1 - r - r**2 / 2) / r**3 for |r| <= ln(2) / 2; exp(r) - 1 is then within 2**-25.9
// (float), 2**-60.4 (double) of itself before rounding.
template <class V>
BNFAST_INLINE V exp_series_rest(V r) {
    if constexpr (kIsDouble<V>) {
        return polynomial(r, 0.16666666666666677, 0.04166666666666669, 0.008333333333321664, 0.0013888888888869979,
                          0.000198412698860799, 2.4801587356498645e-05, 2.755724422841113e-06, 2.755724522340343e-07,
                          2.510903789172042e-08, 2.0923872611631175e-09);
    } else {
        return polynomial(r, 0.16666545F, 0.041666403F, 0.008366457F, 0.0013940562F);
    }
}

// exp(x) = 2**exponent * (1 + fraction), |fraction| < 0.42.
template <class V>
struct ExpParts {
    V exponent;
    V fraction;
};

// r + r**2 / 2 + r**3 rest: exact for tiny r, and r alone carries the leading bits.
template <class V>
BNFAST_INLINE V exp_fraction(V r) {
    return r + (r * r) * (V(0.5) + r * exp_series_rest(r));
}
template <class V>
BNFAST_INLINE ExpParts<V> exp_parts(V x) {
    using C = ExpConstants<Scalar<V>>;
    const V n = round_even(x * V(C::kLog2E));
    return {n, exp_fraction((x - n * V(C::kLn2High)) - n * V(C::kLn2Low))};
}
// The same for exp(x + rest), where rest holds what x could not.
template <class V>
BNFAST_INLINE ExpParts<V> exp_parts(V x, V rest) {
    using C = ExpConstants<Scalar<V>>;
    const V n = round_even(x * V(C::kLog2E));
    return {n, exp_fraction((x - n * V(C::kLn2High)) + (rest - n * V(C::kLn2Low)))};
}

// exp(x); 0 below -126.5 ln 2 and infinity above 127.5 ln 2 (double: 1022.5, 1023.5), half a power
// of two inside the range of T. Max error 1.01 / 1.00 ulp.
template <class V>
BNFAST_INLINE V exp(V x) {
    using C = ExpConstants<Scalar<V>>;
    const ExpParts<V> e = exp_parts(max(V(C::kLowest), min(V(C::kHighest), x)));
    return (V(1) + e.fraction) * pow2n(e.exponent);
}

// exp(x) - 1 for kLowest <= x <= -kLowest; callers clamp, as each knows a tighter limit. expm1(-0)
// is +0. Max error 1.67 / 1.91 ulp; 1.05 / 1.07 for x < 0.
template <class V>
BNFAST_INLINE V expm1(V x) {
    const ExpParts<V> e = exp_parts(x);
    const V scale = pow2n(e.exponent);
    return scale * e.fraction + (scale - V(1));
}

// (2 atanh(s) - 2 s) / s for s**2 = z <= 0.02944; log(1 + f) is then within 2**-30.2 (float),
// 2**-59.5 (double) of itself before rounding.
template <class V>
BNFAST_INLINE V log_series_rest(V z) {
    if constexpr (kIsDouble<V>) {
        return z * polynomial(z, 0.6666666666666734, 0.3999999999941663, 0.2857142874203228, 0.2222219860450842,
                              0.1818356288492398, 0.15314083868253683, 0.14795644060870672);
    } else {
        return z * polynomial(z, 0.66666776F, 0.39977583F, 0.298708F);
    }
}

// log(1 + y) for y <= 0, bounded below where the next smaller 1 + y would be 0. log1p(-0) is +0.
// Max error 0.96 / 0.99 ulp (float on every value).
template <class V>
BNFAST_INLINE V log1p(V y) {
    using C = ExpConstants<Scalar<V>>;
    const V one(1);
    const V bounded = max(V(C::kAboveMinusOne), y);
    // 1 + y = 2**-n (1 + f), 1 + f from sqrt(1/2) to sqrt(2): f is y if n is 0, and exact always,
    // as 2**n y and 2**n - 1 are and their sum needs no more bits than y.
    const V n = -exponent((one + bounded) * V(static_cast<Scalar<V>>(1.4142135623730951)));
    const V scale = pow2n(n);
    const V f = scale * bounded + (scale - one);
    // log(1 + f) = 2 atanh(s) = f - s (f - rest), as 2 s = f - s f.
    const V s = f / (f + V(2));
    const V correction = s * (f - log_series_rest(s * s));
    return (f - (correction + n * V(C::kLn2Low))) - n * V(C::kLn2High);
}

// tanh(x) = m / (m + 2) with m = expm1(2 |x|), whose relative error the quotient does not enlarge;
// exactly odd. Max error 2.48 / 2.48 ulp.
template <class V>
BNFAST_INLINE V tanh(V x) {
    const V magnitude = abs(x);
    const V m = expm1(min(V(ExpConstants<Scalar<V>>::kSaturated), magnitude + magnitude));
    return copysign(m / (m + V(2)), x);
}

// Numerator and denominator of exp(a**2 / 2) * Phi(-a) on [0, kTailEnd], within 2**-25.5 (float),
// 2**-55.3 (double). All coefficients are positive, so no bits cancel.
template <class V>
BNFAST_INLINE V tail_numerator(V a) {
    if constexpr (kIsDouble<V>) {
        return polynomial(a, 0.5, 0.8276123415407453, 0.6790914365710017, 0.3569238183802874, 0.1318287596048499,
                          0.035589824709791516, 0.007102772161524696, 0.001035983065012492, 0.00010608877185253008,
                          6.935758515629869e-06, 2.2251387075823566e-07);
    } else {
        return polynomial(a, 0.5F, 0.4349272F, 0.18070728F, 0.039771363F, 0.003985595F);
    }
}
template <class V>
BNFAST_INLINE V tail_denominator(V a) {
    if constexpr (kIsDouble<V>) {
        return polynomial(a, 1.0, 2.453109243884356, 2.8154808648001173, 1.999683248346005, 0.9788661410464804,
                          0.34772342593784994, 0.09177251490279364, 0.018068819115427088, 0.002614209811402198,
                          0.000266482874703249, 1.7385368401319972e-05, 5.577595599400551e-07);
    } else {
        return polynomial(a, 1.0F, 1.6677393F, 1.1920745F, 0.46278867F, 0.099699505F, 0.00999026F);
    }
}

// Phi(-a) = density * ratio for a = min(|z|, kTailEnd), Phi the normal distribution function:
// density is exp(-a**2 / 2), without the factor 1 / sqrt(2 pi), and 0 at kTailEnd; ratio is Mills'
// ratio with that factor.
template <class V>
struct NormalTail {
    V a;
    V density;
    V ratio;
};

template <class V>
BNFAST_INLINE NormalTail<V> normal_tail(V z) {
    const V minus_half(-0.5);
    const V a = min(V(ExpConstants<Scalar<V>>::kTailEnd), abs(z));
    // a**2 = high**2 + (a - high) (a + high), the first exact: rounding a**2 would cost a**2 / 2
    // ulp in the density.
    const V high = truncate_low(a);
    const V rest = (a - high) * ((a + high) * minus_half);
    const ExpParts<V> e = exp_parts(high * (high * minus_half), rest);
    const V density = (V(1) + e.fraction) * pow2n(e.exponent);
    return {a, density, tail_numerator(a) / tail_denominator(a)};
}

}  // namespace bnfast::BNFAST_NUMERICS
