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
    Affine<T> affine;
    affine.mean_high = get(c.mean_high);
    affine.mean_low = get(c.mean_low);
    affine.scale = get(c.scale);
    affine.shift = get(c.shift);
    affine.inverse = c.has_inverse ? get(c.inverse) : Vec<T>(1);
    affine.has_prescale = c.prescaled;
    affine.prescale = c.prescaled ? get(c.prescale) : Vec<T>(1);
    return affine;
}

template <class T>
BNFAST_INLINE Affine<T> blend(Mask<T> mask, const Affine<T>& a, const Affine<T>& b) {
    Affine<T> blended;
    blended.mean_high = select(mask, a.mean_high, b.mean_high);
    blended.mean_low = select(mask, a.mean_low, b.mean_low);
    blended.scale = select(mask, a.scale, b.scale);
    blended.shift = select(mask, a.shift, b.shift);
    blended.inverse = select(mask, a.inverse, b.inverse);
    blended.has_prescale = a.has_prescale;
    blended.prescale = select(mask, a.prescale, b.prescale);
    return blended;
}

// The parameters along a run: those of its first element, and on from there.
template <class T>
struct AlongRun {
    const T *gamma = nullptr, *beta = nullptr, *inverse = nullptr;

    template <class Lanes>
    BNFAST_INLINE ScaleAndShift<Vec<T>> at(std::int64_t i, Lanes lanes) const {
        return {lanes.load(gamma + i), lanes.load(beta + i)};
    }
    // The output of the channel's affine map that gives z.
    template <class Lanes>
    BNFAST_INLINE Vec<T> undo(std::int64_t i, Lanes lanes, Vec<T> z) const {
        return (z - lanes.load(beta + i)) * lanes.load(inverse + i);
    }
};
template <class T>
BNFAST_INLINE AlongRun<T> open_along(const AlongInner& along, const Geometry& g, const Position& p) {
    const std::int64_t first = (along.first + p.channel) % along.period * g.inner + p.i;
    AlongRun<T> run{static_cast<const T*>(along.gamma) + first, static_cast<const T*>(along.beta) + first, nullptr};
    if (along.has_inverse) run.inverse = static_cast<const T*>(along.inverse) + first;
    return run;
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
