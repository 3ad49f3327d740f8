// Where ReLU lets gradients through, told from x itself.
//
// The affine's output z, as it is computed, is a monotone function of x: every operation on the way to it is, and so is
// rounding. So z > 0 holds from some x on, or up to some x where gamma is negative. That x is found once for a channel,
// exactly: by bisection over all numbers, with the very operations of the affine. Backward then compares x with it, and
// need not compute z again. NaN fails this comparison as it fails z > 0; -0 and 0 give the same z, so that the border
// is never between them.
#pragma once

#include "cpu/kernels/affine.h"

namespace bnfast {
namespace BNFAST_TARGET {

// Fills the padding behind the last channel with the first channels again, for vectors that reach into the next row.
template <class T>
void continue_periodically(T* values, std::int64_t channels) {
    for (std::int64_t i = 0; i < kLanes && channels > 0; ++i) values[channels + i] = values[i % channels];
}

// The numbers in their order as integers, and back; -0 comes before +0.
BNFAST_INLINE Vec<float> ordered(Vec<float> a) {
    return map_bits<float>(BNFAST_EACH { return bits(a, k) ^ ((bits(a, k) >> 31) & ~Sign<float>::kBit); });
}
BNFAST_INLINE Vec<float> middle(Vec<float> a, Vec<float> b) {  // of two such integers, rounded down
    return map_bits<float>(BNFAST_EACH { return (bits(a, k) & bits(b, k)) + ((bits(a, k) ^ bits(b, k)) >> 1); });
}

// Fills gate_sign and gate: z > 0 exactly where x * gate_sign > gate. Returns whether all channels have them: where
// gamma is zero or something is not finite, z need not be monotone.
inline bool fill_gates(std::int64_t channels, const cpu::BasicCoefficients<void*>& out) {
    constexpr int kSteps = 32;  // halve the numbers from -infinity to infinity down to one
    float *gate_sign = static_cast<float*>(out.gate_sign), *gate = static_cast<float*>(out.gate);
    const Vec<float> infinity(__builtin_inff()), zero(0.0F), one(1.0F);
    Vec<double> missing(0.0);
    for_each_vector(channels, 0, [&](std::int64_t c, auto lanes) __attribute__((always_inline)) {
        const auto get = [&](const void* values) __attribute__((always_inline)) {
            return lanes.load(static_cast<const float*>(values) + c);
        };
        const Vec<float> high = get(out.mean_high), low = get(out.mean_low), scale = get(out.scale);
        const Vec<float> shift = get(out.shift), sign = copysign(one, scale);
        const Affine<float> affine{high, low, scale, shift, one, true, get(out.prescale), one, zero};
        const Vec<float> nan_or_zero = (high * zero + low * zero) + (scale * zero + shift * zero);
        const Mask<float> monotone = (nan_or_zero == zero) & (scale != zero);
        missing = missing + lanes.keep_loaded(widen(select(monotone, zero, one)));
        Vec<float> below = ordered(-infinity), above = ordered(infinity);  // only above is z > 0
        for (int step = 0; step < kSteps; ++step) {
            const Vec<float> between = middle(below, above);
            const Mask<float> passes = affine.apply(affine.centre(ordered(between) * sign)) > zero;
            below = select(passes, below, between);
            above = select(passes, between, above);
        }
        lanes.store(gate_sign + c, sign, false);
        lanes.store(gate + c, ordered(below), false);
    });
    continue_periodically(gate_sign, channels);
    continue_periodically(gate, channels);
    return sum_lanes(missing) == 0.0;
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
