// The affine map of a channel, and the gradient at its input, from the coefficients of coefficients.h. V is a value of
// the type that elements are computed in: float, or double for float64 x.
#pragma once

#include "numerics/scalar.h"

namespace bnfast::BNFAST_NUMERICS {

// The centred input (x - mean) * prescale, and from it the affine's output: one definition for forward and backward, so
// that the backward's pre-activation is the forward's, bit for bit.
template <class V>
struct AffineMap {
    V mean_high, mean_low, scale, shift, inverse;
    bool has_prescale;
    V prescale;

    BNFAST_INLINE V centre(V x) const {
        if (has_prescale) x = x * prescale;
        return (x - mean_high) - mean_low;
    }
    BNFAST_INLINE V apply(V centred) const { return centred * scale + shift; }
    BNFAST_INLINE V undo(V z) const { return (z - shift) * inverse; }
};

// gamma and beta by themselves, where they are not those of a channel: the affine map is then that of gamma 1 and beta
// 0, and these come behind it.
template <class V>
struct ScaleAndShift {
    V gamma, beta;

    BNFAST_INLINE V apply(V normalised) const { return normalised * gamma + beta; }
};

template <class V>
BNFAST_INLINE V gradient_at_input(V dz, V centred, V mean_dz, V projection, V dx_scale) {
    return ((dz - mean_dz) - centred * projection) * dx_scale;
}

}  // namespace bnfast::BNFAST_NUMERICS
