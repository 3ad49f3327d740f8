// The coefficients of channels as vectors.
#pragma once

#include "cpu/kernels/span.h"
#include "numerics/affine.h"

namespace bnfast {
namespace BNFAST_TARGET {

// One vector of a coefficient: the same for a whole plane, or one lane a channel for a row.
template <class T>
BNFAST_INLINE Vec<T> plane_coefficient(const void* values, std::int64_t channel) {
    return Vec<T>(static_cast<const T*>(values)[channel]);
}
template <class T>
BNFAST_INLINE Vec<T> row_coefficient(const void* values, std::int64_t channel) {
    return load(static_cast<const T*>(values) + channel);
}

template <class T>
using Affine = AffineMap<Vec<T>>;

template <class T, bool kRows>
BNFAST_INLINE Affine<T> load_affine(const AffineArrays& c, std::int64_t channel) {
    const auto get = [&](const void* values) __attribute__((always_inline)) {
        return kRows ? row_coefficient<T>(values, channel) : plane_coefficient<T>(values, channel);
    };
    const Vec<T> one(1);
    Affine<T> affine{get(c.mean_high), get(c.mean_low), get(c.scale), get(c.shift), one, c.prescaled, one};
    if (c.has_inverse) affine.inverse = get(c.inverse);
    if (affine.has_prescale) affine.prescale = get(c.prescale);
    return affine;
}

template <class T>
BNFAST_INLINE Affine<T> blend(Mask<T> mask, const Affine<T>& a, const Affine<T>& b) {
    return {select(mask, a.mean_high, b.mean_high), select(mask, a.mean_low, b.mean_low),
            select(mask, a.scale, b.scale),         select(mask, a.shift, b.shift),
            select(mask, a.inverse, b.inverse),     a.has_prescale,
            select(mask, a.prescale, b.prescale)};
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
