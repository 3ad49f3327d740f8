// Activations as value types: forward and derivative side by side, both at the pre-activation z.
//
// Every type is constructed from one number, the negative slope, which only LeakyRelu keeps.
// derivative(z) is d forward / d z; ReLU says where it is 1. The strictly increasing ones that in-place batch norm
// admits (Rota Bulo, Porzi & Kontschieder 2018) also have inverse(y), which is z given y = forward(z), and
// derivative_from_output(y), which is derivative(z). NaN gives NaN, but the piecewise constant
// derivatives (relu, leaky relu) take it for z <= 0. Max errors are measured as in elementary.h and
// given as float / double, in ulp of the exact result, or in eps, an absolute error of 2**-24 /
// 2**-53. Results below the smallest normal number may be 0.
#pragma once

#include "numerics/elementary.h"

namespace bnfast {
namespace BNFAST_TARGET {

template <class T>
struct Identity {
    BNFAST_INLINE explicit Identity(T) {}
    BNFAST_INLINE Vec<T> forward(Vec<T> z) const { return z; }
    BNFAST_INLINE Vec<T> derivative(Vec<T>) const { return Vec<T>(T(1)); }
    BNFAST_INLINE Vec<T> inverse(Vec<T> y) const { return y; }
    BNFAST_INLINE Vec<T> derivative_from_output(Vec<T>) const { return Vec<T>(T(1)); }
};

// max(0, z), in this order so that NaN stays NaN; the derivative at 0 is 0 (Nair & Hinton 2010).
template <class T>
struct Relu {
    BNFAST_INLINE explicit Relu(T) {}
    BNFAST_INLINE Vec<T> forward(Vec<T> z) const { return max(Vec<T>(T(0)), z); }
    BNFAST_INLINE Mask<T> passes(Vec<T> z) const { return z > Vec<T>(T(0)); }
};

// z for z > 0, slope * z elsewhere; the derivative at 0 is slope (Maas, Hannun & Ng 2013). What
// starts from the output needs slope > 0; inverse divides, as the rounded reciprocal of the slope
// would make errors of 1.48 ulp.
template <class T>
struct LeakyRelu {
    Vec<T> slope;
    BNFAST_INLINE explicit LeakyRelu(T negative_slope) : slope(negative_slope) {}
    BNFAST_INLINE Vec<T> forward(Vec<T> z) const { return select(z > Vec<T>(T(0)), z, slope * z); }
    BNFAST_INLINE Vec<T> derivative(Vec<T> z) const { return select(z > Vec<T>(T(0)), Vec<T>(T(1)), slope); }
    BNFAST_INLINE Vec<T> inverse(Vec<T> y) const { return select(y > Vec<T>(T(0)), y, y / slope); }
    BNFAST_INLINE Vec<T> derivative_from_output(Vec<T> y) const { return derivative(y); }
};

// 1 / (1 + exp(-z)). Derivative s (1 - s), as t / (1 + t)**2 with t = exp(-|z|): nothing cancels in
// either tail. Max error: forward 2.44 / 2.24 ulp, derivative 4.9 / 4.5 ulp, 0.91 eps.
template <class T>
struct Sigmoid {
    BNFAST_INLINE explicit Sigmoid(T) {}
    BNFAST_CALL Vec<T> forward(Vec<T> z) const {
        const Vec<T> one(T(1));
        return one / (one + exp(-z));
    }
    BNFAST_CALL Vec<T> derivative(Vec<T> z) const {
        const Vec<T> one(T(1));
        const Vec<T> t = exp(-abs(z));
        const Vec<T> s = one / (one + t);
        return (t * s) * s;
    }
};

// Derivative 1 - tanh(z)**2, as four times the derivative of the sigmoid at 2 z: nothing cancels.
// Max error: forward 2.48 / 2.48 ulp, derivative 4.7 / 5.1 ulp, 3.7 eps.
template <class T>
struct Tanh {
    BNFAST_INLINE explicit Tanh(T) {}
    BNFAST_CALL Vec<T> forward(Vec<T> z) const { return tanh(z); }
    BNFAST_CALL Vec<T> derivative(Vec<T> z) const { return Vec<T>(T(4)) * Sigmoid<T>(T(0)).derivative(z + z); }
};

// z * sigmoid(z) (Hendrycks & Gimpel 2016; Elfwing, Uchibe & Doya 2018).
// Derivative s (1 + z (1 - s)), s the sigmoid; it has a zero at -1.28.
// Max error: forward 2.32 / 2.14 ulp, derivative 3.2 / 3.1 ulp for z > -0.8 and 4.0 eps everywhere.
template <class T>
struct Silu {
    BNFAST_INLINE explicit Silu(T) {}
    BNFAST_CALL Vec<T> forward(Vec<T> z) const {
        // z is bounded where exp(-z) is already infinite, so that -inf gives -0, not NaN.
        const Vec<T> bounded = max(Vec<T>(-ExpConstants<T>::kHighest), z);
        return bounded / (Vec<T>(T(1)) + exp(-bounded));
    }
    BNFAST_CALL Vec<T> derivative(Vec<T> z) const {
        // Within these bounds exp(-z) is finite; beyond them the derivative is 0 or 1.
        const Vec<T> one(T(1)), low(ExpConstants<T>::kLowest), high(-ExpConstants<T>::kLowest);
        const Vec<T> bounded = max(low, min(high, z));
        const Vec<T> t = exp(-bounded);
        const Vec<T> s = one / (one + t);
        return select(z < low, Vec<T>(T(0)), s * (one + bounded * (t * s)));
    }
};

// z * Phi(z), Phi the normal distribution function (Hendrycks & Gimpel 2016), as
// relu(z) - |z| Phi(-|z|): the subtrahend is at most half of relu(z) where z > 0, so nothing
// cancels. Derivative Phi(z) + z phi(z), phi the density; it has a zero at -0.75.
// Max error: forward 3.7 / 3.0 ulp for z > 0; 1.0 eps for z < 0, 8 / 11 ulp far into that tail.
// Derivative 5.7 / 5.4 ulp for z > -0.4 and 2.4 / 2.1 eps everywhere.
template <class T>
struct Gelu {
    BNFAST_INLINE explicit Gelu(T) {}
    BNFAST_CALL Vec<T> forward(Vec<T> z) const {
        const NormalTail<T> tail = normal_tail(z);
        return Relu<T>(T(0)).forward(z) - tail.a * (tail.density * tail.ratio);
    }
    BNFAST_CALL Vec<T> derivative(Vec<T> z) const {
        constexpr T kInvSqrtTwoPi = static_cast<T>(0.3989422804014327);
        const NormalTail<T> tail = normal_tail(z);
        const Vec<T> at_minus_a = tail.density * (tail.ratio - tail.a * Vec<T>(kInvSqrtTwoPi));
        return select(z < Vec<T>(T(0)), at_minus_a, Vec<T>(T(1)) - at_minus_a);
    }
};

// z for z >= 0, exp(z) - 1 below (Clevert, Unterthiner & Hochreiter 2016), alpha = 1.
// Max error: forward 1.05 / 1.07 ulp, derivative 1.01 / 1.00 ulp, inverse 0.96 / 0.99 ulp,
// derivative_from_output 0.5 / 0.5 ulp, these two for y as given: y near -1 has few bits of z left,
// and where it is -1 (z below -25 ln 2 / -54 ln 2) they give -24 ln 2 / -53 ln 2 and 0.
template <class T>
struct Elu {
    BNFAST_INLINE explicit Elu(T) {}
    BNFAST_CALL Vec<T> forward(Vec<T> z) const {
        // Lanes above the range of expm1 hold nonsense there and are not selected.
        const Vec<T> below = expm1(max(Vec<T>(-ExpConstants<T>::kSaturated), z));
        return select(z < Vec<T>(T(0)), below, z);
    }
    BNFAST_CALL Vec<T> derivative(Vec<T> z) const {
        const Vec<T> one(T(1));
        return select(z > Vec<T>(T(0)), one, exp(z));
    }
    BNFAST_CALL Vec<T> inverse(Vec<T> y) const {
        // Lanes above 0 may hold nonsense in log1p and are not selected.
        return select(y < Vec<T>(T(0)), log1p(y), y);
    }
    BNFAST_INLINE Vec<T> derivative_from_output(Vec<T> y) const {
        const Vec<T> one(T(1));
        return select(y > Vec<T>(T(0)), one, y + one);
    }
};

// The gradient at z, given that at the activation's output. ReLU's is zero unless z > 0, whatever the latter holds.
template <class Act, class T>
BNFAST_INLINE Vec<T> backward_through(const Act& act, Vec<T> z, Vec<T> dz) {
    return dz * act.derivative(z);
}
template <class T>
BNFAST_INLINE Vec<T> backward_through(const Relu<T>& relu, Vec<T> z, Vec<T> dz) {
    return select(relu.passes(z), dz, Vec<T>(T(0)));
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
