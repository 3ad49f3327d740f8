// Kernels on per-channel values: merging of blocks, invstd, coefficients. Where channels are many and short, these are
// the call.
#pragma once

#include "cpu/kernels/affine.h"

namespace bnfast {
namespace BNFAST_TARGET {

// Calls body(c, lanes) for 16 channels at a time; lanes beyond the last one load as zero and are not stored.
template <class Body>
BNFAST_INLINE void for_each_channel(std::int64_t channels, Body body) {
    for_each_vector(channels, 0, body);
}

// --- merging ----------------------------------------------------------------------------------------------------

// Chan, Golub & LeVeque 1979: the moments of two parts give those of the whole.
void merge_pair(const BlockMoments& m, std::int64_t a, std::int64_t b, double count_a, double count_b,
                std::int64_t width) {
    if (count_b == 0.0) return;
    if (count_a == 0.0) {
        for_each_channel(width, [&](std::int64_t c, auto lanes) __attribute__((always_inline)) {
            double* const all[] = {m.mean, m.mean_low, m.m2};
            for (double* values : all) lanes.store(values + a + c, lanes.load(values + b + c), false);
        });
        return;
    }
    const Vec<double> share(count_b / (count_a + count_b)), weight(count_a);
    for_each_channel(width, [&](std::int64_t c, auto lanes) __attribute__((always_inline)) {
        const Vec<double> mean = lanes.load(m.mean + a + c), low = lanes.load(m.mean_low + a + c);
        const Vec<double> delta = (lanes.load(m.mean + b + c) - mean) + (lanes.load(m.mean_low + b + c) - low);
        const Vec<double> step = delta * share;
        const Vec<double> sum = mean + step;  // two_sum, then the low parts, then fast_two_sum
        const Vec<double> back = sum - mean;
        const Vec<double> rest = ((mean - (sum - back)) + (step - back)) + low;
        const Vec<double> high = sum + rest;
        const Vec<double> m2 = (lanes.load(m.m2 + a + c) + lanes.load(m.m2 + b + c)) + delta * step * weight;
        lanes.store(m.mean + a + c, high, false);
        lanes.store(m.mean_low + a + c, rest - (high - sum), false);
        lanes.store(m.m2 + a + c, m2, false);
    });
}

// Block b absorbs block b + step, for step 1, 2, 4 ...: a tree that depends on the number of blocks alone.
void merge_moments(const BlockMoments& m, const double* counts, std::int64_t blocks, std::int64_t pitch,
                   std::int64_t width) noexcept {
    // counts of merged blocks: those of the blocks below, summed when needed (exact: integers below 2**53).
    for (std::int64_t step = 1; step < blocks; step *= 2) {
        for (std::int64_t b = 0; b + step < blocks; b += 2 * step) {
            double count_a = 0.0, count_b = 0.0;
            for (std::int64_t i = b; i < b + step; ++i) count_a += counts[i];
            for (std::int64_t i = b + step; i < b + 2 * step && i < blocks; ++i) count_b += counts[i];
            merge_pair(m, b * pitch, (b + step) * pitch, count_a, count_b, width);
        }
    }
}

void merge_sums(const BlockSums& sums, std::int64_t blocks, std::int64_t pitch, std::int64_t width) noexcept {
    for (std::int64_t step = 1; step < blocks; step *= 2) {
        for (std::int64_t b = 0; b + step < blocks; b += 2 * step) {
            double *dz = sums.dz + b * pitch, *dz_xmu = sums.dz_xmu + b * pitch;
            for (std::int64_t c = 0; c < width; ++c) {
                dz[c] += dz[c + step * pitch];
                dz_xmu[c] += dz_xmu[c + step * pitch];
            }
        }
    }
}

// --- invstd -----------------------------------------------------------------------------------------------------

void invstd(const double* m2, const double* count, double eps, EpsPlacement placement, std::int64_t channels,
            double* result) noexcept {
    const Vec<double> inside(placement == EpsPlacement::kVar ? eps : 0.0);
    const Vec<double> outside(placement == EpsPlacement::kVar ? 0.0 : eps);
    const Vec<double> zero(0.0), one(1.0);
    for_each_channel(channels, [&](std::int64_t c, auto lanes) __attribute__((always_inline)) {
        const Vec<double> n = lanes.load(count + c);
        const Vec<double> var = select(n > zero, lanes.load(m2 + c) / n, zero);
        const Vec<double> std = sqrt(var + inside) + outside;
        // var = eps = 0: x - mean is 0, and so is its product.
        lanes.store(result + c, select(std == zero, zero, one / std), false);
    });
}

// --- coefficients -----------------------------------------------------------------------------------------------

// Powers of two that keep intermediates in range where the scale of x or of gamma is extreme.
template <class T>
struct Rescue {
    static constexpr double kExtreme = sizeof(T) == 8 ? 0x1p400 : 0x1p60;
    static constexpr double kFactor = sizeof(T) == 8 ? 0x1p512 : 0x1p64;
};

// Up to so many standard deviations from zero, the mean leaves sums about zero more digits, even at worst, than the
// rounding of a centred float32 does.
constexpr double kFewDeviations = 65536.0;

// Fills the padding behind the last channel with the first channels again, for vectors that reach into the next row.
template <class T>
void continue_periodically(T* values, std::int64_t channels) {
    for (std::int64_t i = 0; i < kLanes && channels > 0; ++i) values[channels + i] = values[i % channels];
}

template <class T>
BNFAST_INLINE Vec<T> as_computed(Vec<double> value) {
    if constexpr (sizeof(T) == 8) {
        return value;
    } else {
        return narrow(value);
    }
}

// A coefficient in the type computed with; finite, so that its product with zero is zero.
template <class T>
BNFAST_INLINE Vec<T> finite_coefficient(Vec<double> value) {
    const Vec<double> largest(sizeof(T) == 8 ? 0x1.fffffffffffffp1023 : 0x1.fffffep127);
    return as_computed<T>(select(value > largest, largest, select(value < -largest, -largest, value)));  // NaN stays
}

BNFAST_INLINE Vec<double> as_double(Vec<double> value) { return value; }
BNFAST_INLINE Vec<double> as_double(Vec<float> value) { return widen(value); }

template <class T>
cpu::AffineTraits fill_coefficients(const cpu::AffineInputs& in, std::int64_t channels,
                                    const cpu::BasicCoefficients<void*>& out) {
    T *prescale = static_cast<T*>(out.prescale), *high = static_cast<T*>(out.mean_high);
    T *low = static_cast<T*>(out.mean_low), *scale = static_cast<T*>(out.scale), *shift = static_cast<T*>(out.shift);
    T* inverse = static_cast<T*>(out.inverse);
    double* mean_or_nan = static_cast<double*>(out.mean);
    const Vec<double> limit(kFewDeviations * kFewDeviations), nan(__builtin_nan(""));
    const Vec<double> zero(0.0), one(1.0), extreme(Rescue<T>::kExtreme), tiny(1.0 / Rescue<T>::kExtreme);
    const Vec<double> up(Rescue<T>::kFactor), down(1.0 / Rescue<T>::kFactor);
    Vec<double> changes(0.0);
    for_each_channel(channels, [&](std::int64_t c, auto lanes) __attribute__((always_inline)) {
        const Vec<double> invstd = lanes.load(in.invstd + c);
        const Vec<double> wanted = lanes.load(in.gamma + c) * invstd;
        // Powers of two: products with them are exact.
        const Mask<double> large = (invstd < tiny) & (invstd > zero);
        const Mask<double> small = (invstd > extreme) | (abs(wanted) > extreme);
        const Vec<double> k = select(large, down, select(small, up, one));
        const Vec<double> reciprocal = select(large, up, select(small, down, one));
        changes = changes + select(k == one, zero, one);
        const Vec<double> raw_mean = lanes.load(in.mean + c), mean = raw_mean * k;
        const Vec<T> mean_high = as_computed<T>(mean);
        lanes.store(prescale + c, as_computed<T>(k), false);
        lanes.store(high + c, mean_high, false);
        lanes.store(low + c, as_computed<T>((mean - as_double(mean_high)) + lanes.load(in.mean_low + c) * k), false);
        // Not wanted * reciprocal: wanted itself may be beyond float64.
        const Vec<double> scaled = lanes.load(in.gamma + c) * (invstd * reciprocal);
        lanes.store(scale + c, finite_coefficient<T>(scaled), false);
        lanes.store(shift + c, as_computed<T>(lanes.load(in.beta + c)), false);
        if (mean_or_nan != nullptr) {
            const Vec<double> second_moment = raw_mean * raw_mean * lanes.load(in.count + c);
            const Mask<double> few = (second_moment <= limit * lanes.load(in.m2 + c)) & (k == one);
            lanes.store(mean_or_nan + c, select(few, raw_mean, nan), false);
        }
        if (inverse != nullptr) {
            const Vec<T> back = finite_coefficient<T>(one / scaled);
            lanes.store(inverse + c, as_computed<T>(select(scaled == zero, zero, as_double(back))), false);
        }
    });
    T* const all[] = {prescale, high, low, scale, shift};
    for (T* values : all) continue_periodically(values, channels);
    if (inverse != nullptr) continue_periodically(inverse, channels);
    return {sum_lanes(changes) != 0.0};
}

cpu::AffineTraits forward_coefficients(const cpu::AffineInputs& in, bool is_double, std::int64_t channels,
                                       const cpu::BasicCoefficients<void*>& out) noexcept {
    return is_double ? fill_coefficients<double>(in, channels, out) : fill_coefficients<float>(in, channels, out);
}

template <class T>
void fill_gradient_coefficients(const cpu::GradientInputs& in, std::int64_t channels, const Coefficients& affine,
                                const cpu::BasicCoefficients<void*>& out) {
    T *mean_dz = static_cast<T*>(out.mean_dz), *projection = static_cast<T*>(out.projection);
    T* dx_scale = static_cast<T*>(out.dx_scale);
    const T* prescale = static_cast<const T*>(affine.prescale);
    const Vec<double> zero(0.0), one(1.0), eps(in.eps), largest(0x1.fffffffffffffp1023), smallest(0x1p-1015);
    for_each_channel(channels, [&](std::int64_t c, auto lanes) __attribute__((always_inline)) {
        const Vec<double> invstd = lanes.load(in.invstd + c);
        const Vec<double> k = prescale == nullptr ? one : as_double(lanes.load(prescale + c));
        const Vec<double> prescaled = prescale == nullptr ? invstd : invstd / k;  // of x * k
        Vec<double> square = prescaled * prescaled;
        if (in.placement == EpsPlacement::kStd) {
            // Differentiating sqrt(var) + eps in place of sqrt(var + eps) replaces invstd^2 by invstd / sqrt(var);
            // where var is zero so is x - mean, and the factor is of no account.
            const Vec<double> m2 = lanes.load(in.m2 + c), n = lanes.load(in.count + c);
            const Mask<double> beyond_float64 = (m2 > largest) | (m2 < n * smallest);
            const Mask<double> of_invstd = beyond_float64 & ((k < one) | (k > one));
            const Vec<double> std = select(of_invstd, one / invstd - eps, sqrt(m2 / n));
            square = select(std > zero, prescaled / (std * k), zero);
        }
        const Vec<double> count = in.constant_statistics ? zero : lanes.load(in.total_count + c);
        const Mask<double> any = count > zero;
        const Vec<double> share = one / count;
        Vec<double> sum_dz_xmu = lanes.load(in.sum_dz_xmu + c);
        if (!in.sums_are_prescaled) sum_dz_xmu = sum_dz_xmu * k;
        const Vec<double> along = square * (sum_dz_xmu * share);
        lanes.store(mean_dz + c, as_computed<T>(select(any, lanes.load(in.sum_dz + c) * share, zero)), false);
        lanes.store(projection + c, finite_coefficient<T>(select(any, along, zero)), false);
        lanes.store(dx_scale + c, finite_coefficient<T>(lanes.load(in.gamma + c) * invstd), false);
    });
    T* const all[] = {mean_dz, projection, dx_scale};
    for (T* values : all) continue_periodically(values, channels);
}

void gradient_coefficients(const cpu::GradientInputs& in, bool is_double, std::int64_t channels,
                           const Coefficients& affine, const cpu::BasicCoefficients<void*>& out) noexcept {
    if (is_double) {
        fill_gradient_coefficients<double>(in, channels, affine, out);
    } else {
        fill_gradient_coefficients<float>(in, channels, affine, out);
    }
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
