// Kernels on per-channel values: merging of blocks, invstd, coefficients. Where channels are many and short, these
// loops take most of the time.
#pragma once

#include "cpu/kernels/span.h"
#include "numerics/coefficients.h"
#include "numerics/moments.h"

namespace bnfast {
namespace BNFAST_TARGET {

// Calls body(c, lanes) for 16 channels at a time; lanes beyond the last one load as zero and are not stored.
template <class Body>
BNFAST_INLINE void for_each_channel(std::int64_t channels, Body body) {
    for_each_vector(channels, 0, body);
}

// --- merging ----------------------------------------------------------------------------------------------------

inline void merge_moments(const BlockMoments& m, const double* counts, std::int64_t blocks, std::int64_t pitch,
                          std::int64_t width) noexcept {
    const auto count_of = [&](std::int64_t begin, std::int64_t end) {  // exact: integers below 2**53
        double count = 0.0;
        for (std::int64_t b = begin; b < end; ++b) count += counts[b];
        return count;
    };
    for_each_merger(blocks, [&](std::int64_t a, std::int64_t b, std::int64_t end) {
        const double count_a = count_of(a, b), count_b = count_of(b, end);
        const BlockMoments into{m.mean + a * pitch, m.mean_low + a * pitch, m.m2 + a * pitch};
        const BlockMoments from{m.mean + b * pitch, m.mean_low + b * pitch, m.m2 + b * pitch};
        for_each_channel(width, [&](std::int64_t c, auto lanes) __attribute__((always_inline)) {
            const auto load = [&](const BlockMoments& part) __attribute__((always_inline)) {
                return PartMoments<Vec<double>>{lanes.load(part.mean + c), lanes.load(part.mean_low + c),
                                                lanes.load(part.m2 + c)};
            };
            const PartMoments<Vec<double>> both = merged(load(into), load(from), count_a, count_b);
            lanes.store(into.mean + c, both.mean, false);
            lanes.store(into.mean_low + c, both.mean_low, false);
            lanes.store(into.m2 + c, both.m2, false);
        });
    });
}

inline void merge_sums(const BlockSums& sums, std::int64_t blocks, std::int64_t pitch, std::int64_t width) noexcept {
    for_each_merger(blocks, [&](std::int64_t a, std::int64_t b, std::int64_t) {
        double* const all[] = {sums.dz, sums.dz_xmu};
        for (double* values : all) {
            for (std::int64_t c = 0; c < width; ++c) values[a * pitch + c] += values[b * pitch + c];
        }
    });
}

// --- invstd -----------------------------------------------------------------------------------------------------

inline void invstd(const double* m2, const double* count, double eps, EpsPlacement placement, std::int64_t channels,
                   double* result) noexcept {
    for_each_channel(channels, [&](std::int64_t c, auto lanes) __attribute__((always_inline)) {
        const Vec<double> var = variance(lanes.load(m2 + c), lanes.load(count + c));
        lanes.store(result + c, invstd_of(var, eps, placement), false);
    });
}

// --- coefficients -----------------------------------------------------------------------------------------------

// Fills the padding behind the last channel with the first channels again, for vectors that reach into the next row.
template <class T>
void continue_periodically(T* values, std::int64_t channels) {
    for (std::int64_t i = 0; i < kLanes && channels > 0; ++i) values[channels + i] = values[i];  // those behind, too
}

template <class T>
void fill_coefficients(const cpu::AffineInputs& in, std::int64_t channels, cpu::AffineArrays& out,
                       const cpu::SumsCentre& centre) {
    T *prescale = static_cast<T*>(out.prescale), *high = static_cast<T*>(out.mean_high);
    T *low = static_cast<T*>(out.mean_low), *scale = static_cast<T*>(out.scale), *shift = static_cast<T*>(out.shift);
    T* inverse = static_cast<T*>(out.inverse);
    Vec<double> changes(0.0);
    for_each_channel(channels, [&](std::int64_t c, auto lanes) __attribute__((always_inline)) {
        const Vec<double> mean = lanes.load(in.mean + c);
        const auto affine = affine_coefficients<T>(mean, lanes.load(in.mean_low + c), lanes.load(in.invstd + c),
                                                   lanes.load(in.gamma + c), lanes.load(in.beta + c));
        changes = changes + select(affine.exact_prescale == Vec<double>(1), Vec<double>(0), Vec<double>(1));
        lanes.store(prescale + c, affine.prescale, false);
        lanes.store(high + c, affine.mean_high, false);
        lanes.store(low + c, affine.mean_low, false);
        lanes.store(scale + c, affine.scale, false);
        lanes.store(shift + c, affine.shift, false);
        if (centre.wanted) {
            const Mask<double> keep =
                sums_keep_digits(mean, lanes.load(in.m2 + c), lanes.load(in.count + c), affine.exact_prescale);
            double lost[kLanes];
            store(lost, select(keep, Vec<double>(0), Vec<double>(1)));
            for (std::int64_t i = c; i < channels && i < c + kLanes; ++i) centre.centred[i] = lost[i - c] != 0.0;
            lanes.store(centre.mean + c, mean, false);
        }
        if (out.has_inverse) lanes.store(inverse + c, inverse_scale<T>(affine.exact_scale), false);
    });
    T* const all[] = {prescale, high, low, scale, shift};
    for (T* values : all) continue_periodically(values, channels);
    if (out.has_inverse) continue_periodically(inverse, channels);
    out.prescaled = sum_lanes(changes) != 0.0;
}

inline void forward_coefficients(const cpu::AffineInputs& in, bool is_double, std::int64_t channels,
                                 cpu::AffineArrays& out, const cpu::SumsCentre& centre) noexcept {
    if (is_double) {
        fill_coefficients<double>(in, channels, out, centre);
    } else {
        fill_coefficients<float>(in, channels, out, centre);
    }
}

template <class T>
void fill_gradient_coefficients(const cpu::GradientInputs& in, std::int64_t channels, const cpu::AffineArrays& affine,
                                const cpu::GradientArrays& out) {
    T *mean_dz = static_cast<T*>(out.mean_dz), *projection = static_cast<T*>(out.projection);
    T *dx_scale = static_cast<T*>(out.dx_scale), *weight = static_cast<T*>(out.weight);
    const T* prescale = static_cast<const T*>(affine.prescale);
    for_each_channel(channels, [&](std::int64_t c, auto lanes) __attribute__((always_inline)) {
        const Vec<double> one(1), invstd = lanes.load(in.invstd + c);
        const auto squared = [&](Vec<double> k) __attribute__((always_inline)) {
            return in.placement == EpsPlacement::kVar
                       ? squared_invstd_of(invstd, k)
                       : squared_invstd_beside_eps(invstd, k, lanes.load(in.m2 + c), lanes.load(in.count + c), in.eps);
        };
        const Vec<double> k = affine.prescaled ? widen(lanes.load(prescale + c)) : one;
        const Vec<double> squared_invstd = affine.prescaled ? squared(k) : squared(one);  // no division by one
        const Vec<double> count = in.constant_statistics ? Vec<double>(0) : lanes.load(in.total_count + c);
        const Vec<double> sum_dz_xmu = lanes.load(in.sum_dz_xmu + c);
        const Vec<double> sum_dz = in.about_zero ? Vec<double>(0) : lanes.load(in.sum_dz + c);
        const Vec<double> gamma = lanes.load(in.gamma + c);
        const auto dx = dx_coefficients<T>(count, sum_dz, in.sums_are_prescaled ? sum_dz_xmu : sum_dz_xmu * k,
                                           squared_invstd, invstd, in.weighted ? one : gamma);
        if (in.weighted) lanes.store(weight + c, as_computed<T>(gamma), false);
        lanes.store(mean_dz + c, dx.mean_dz, false);
        lanes.store(projection + c, dx.projection, false);
        lanes.store(dx_scale + c, dx.dx_scale, false);
    });
    T* const all[] = {mean_dz, projection, dx_scale};
    for (T* values : all) continue_periodically(values, channels);
    if (in.weighted) continue_periodically(weight, channels);
}

inline void gradient_coefficients(const cpu::GradientInputs& in, bool is_double, std::int64_t channels,
                                  const cpu::AffineArrays& affine, const cpu::GradientArrays& out) noexcept {
    if (is_double) {
        fill_gradient_coefficients<double>(in, channels, affine, out);
    } else {
        fill_gradient_coefficients<float>(in, channels, affine, out);
    }
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
