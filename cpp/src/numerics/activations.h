// Activations as types: forward and derivative side by side, both at the pre-activation z.
//
// Every type is constructed from one number of the type computed in, the negative slope, which only LeakyRelu keeps.
// Its functions take any value whose lanes are of that type. derivative(z) is d forward / d z; ReLU has passes(z) in
// its place. The strictly increasing ones that in-place batch norm admits (Rota Bulo, Porzi & Kontschieder 2018) also
// have inverse(y), which is z given y = forward(z), and derivative_from_output(y), which is derivative(z). NaN gives
// NaN, but the piecewise constant derivatives (relu, leaky relu) take it for z <= 0. Max errors are measured as in
// elementary.h and given as float / double, in ulp of the exact result, or in eps, an absolute error of 2**-24 /
// 2**-53. Results below the smallest normal number may be 0.
#pragma once

#include "numerics/elementary.h"

namespace bnfast::BNFAST_NUMERICS {

template <class T>
struct Identity {
    BNFAST_INLINE explicit Identity(T) {}
    template <class V>
    BNFAST_INLINE V forward(V z) const {
        return z;
    }
    template <class V>
    BNFAST_INLINE V derivative(V) const {
        return V(1);
    }
    template <class V>
    BNFAST_INLINE V inverse(V y) const {
        return y;
    }
    template <class V>
    BNFAST_INLINE V derivative_from_output(V) const {
        return V(1);
    }
};

// max(0, z), in this order so that NaN stays NaN; the derivative at 0 is 0 (Nair & Hinton 2010).
template <class T>
struct Relu {
    BNFAST_INLINE explicit Relu(T) {}
    template <class V>
    BNFAST_INLINE V forward(V z) const {
        return max(V(0), z);
    }
    template <class V>
    BNFAST_INLINE auto passes(V z) const {
        return z > V(0);
    }
};

// z for z > 0, slope * z elsewhere; the derivative at 0 is slope (Maas, Hannun & Ng 2013). What
// starts from the output needs slope > 0; inverse divides, as the rounded reciprocal of the slope
// would make errors of 1.48 ulp.
template <class T>
struct LeakyRelu {
    T slope;
    BNFAST_INLINE explicit LeakyRelu(T negative_slope) : slope(negative_slope) {}
    template <class V>
    BNFAST_INLINE V forward(V z) const {
        return select(z > V(0), z, V(slope) * z);
    }
    template <class V>
    BNFAST_INLINE V derivative(V z) const {
        return select(z > V(0), V(1), V(slope));
    }
    template <class V>
    BNFAST_INLINE V inverse(V y) const {
        return select(y > V(0), y, y / V(slope));
    }
    template <class V>
    BNFAST_INLINE V derivative_from_output(V y) const {
        return derivative(y);
    }
};

// 1 / (1 + exp(-z)). Derivative s (1 - s), as t / (1 + t)**2 with t = exp(-|z|): nothing cancels in
// either tail. Max error: forward 2.44 / 2.24 ulp, derivative 4.9 / 4.5 ulp, 0.91 eps.
template <class T>
struct Sigmoid {
    BNFAST_INLINE explicit Sigmoid(T) {}
    template <class V>
    BNFAST_CALL V forward(V z) const {
        const V one(1);
        return one / (one + exp(-z));
    }
    template <class V>
    BNFAST_CALL V derivative(V z) const {
        const V one(1);
        const V t = exp(-abs(z));
        const V s = one / (one + t);
        return (t * s) * s;
    }
};

// Derivative 1 - tanh(z)**2, as four times the derivative of the sigmoid at 2 z: nothing cancels.
// Max error: forward 2.48 / 2.48 ulp, derivative 4.7 / 5.1 ulp, 3.7 eps.
template <class T>
struct Tanh {
    BNFAST_INLINE explicit Tanh(T) {}
    template <class V>
    BNFAST_CALL V forward(V z) const {
        return tanh(z);
    }
    template <class V>
    BNFAST_CALL V derivative(V z) const {
        return V(4) * Sigmoid<T>(0).derivative(z + z);
    }
};

// z * sigmoid(z) (Hendrycks & Gimpel 2016; Elfwing, Uchibe & Doya 2018).
// Derivative s (1 + z (1 - s)), s the sigmoid; it has a zero at -1.28.
// Max error: forward 2.32 / 2.14 ulp, derivative 3.2 / 3.1 ulp for z > -0.8 and 4.0 eps everywhere.
template <class T>
struct Silu {
    BNFAST_INLINE explicit Silu(T) {}
    template <class V>
    BNFAST_CALL V forward(V z) const {
        // z is bounded where exp(-z) is already infinite, so that -inf gives -0, not NaN.
        const V bounded = max(V(-ExpConstants<T>::kHighest), z);
        return bounded / (V(1) + exp(-bounded));
    }
    template <class V>
    BNFAST_CALL V derivative(V z) const {
        // Within these bounds exp(-z) is finite; beyond them the derivative is 0 or 1.
        const V one(1), low(ExpConstants<T>::kLowest), high(-ExpConstants<T>::kLowest);
        const V bounded = max(low, min(high, z));
        const V t = exp(-bounded);
        const V s = one / (one + t);
        return select(z < low, V(0), s * (one + bounded * (t * s)));
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
    template <class V>
    BNFAST_CALL V forward(V z) const {
        const NormalTail<V> tail = normal_tail(z);
        return Relu<T>(0).forward(z) - tail.a * (tail.density * tail.ratio);
    }
    template <class V>
    BNFAST_CALL V derivative(V z) const {
        constexpr T kInvSqrtTwoPi = static_cast<T>(0.3989422804014327);
        const NormalTail<V> tail = normal_tail(z);
        const V at_minus_a = tail.density * (tail.ratio - tail.a * V(kInvSqrtTwoPi));
        return select(z < V(0), at_minus_a, V(1) - at_minus_a);
    }
};

// z for z >= 0, exp(z) - 1 below (Clevert, Unterthiner & Hochreiter 2016), alpha = 1.
// Max error: forward 1.05 / 1.07 ulp, derivative 1.01 / 1.00 ulp, inverse 0.96 / 0.99 ulp,
// derivative_from_output 0.5 / 0.5 ulp, these two for y as given: y near -1 has few bits of z left,
// and where it is -1 (z below -25 ln 2 / -54 ln 2) they give -24 ln 2 / -53 ln 2 and 0.
template <class T>
struct Elu {
    BNFAST_INLINE explicit Elu(T) {}
    template <class V>
    BNFAST_CALL V forward(V z) const {
        // Lanes above the range of expm1 hold nonsense there and are not selected.
        const V below = expm1(max(V(-ExpConstants<T>::kSaturated), z));
        return select(z < V(0), below, z);
    }
    template <class V>
    BNFAST_CALL V derivative(V z) const {
        const V one(1);
        return select(z > V(0), one, exp(z));
    }
    template <class V>
    BNFAST_CALL V inverse(V y) const {
        // Lanes above 0 may hold nonsense in log1p and are not selected.
        return select(y < V(0), log1p(y), y);
    }
    template <class V>
    BNFAST_INLINE V derivative_from_output(V y) const {
        const V one(1);
        return select(y > V(0), one, y + one);
    }
};

// The gradient at z, given that at the activation's output. ReLU's is zero unless z > 0, whatever the latter holds.
template <class Act, class V>
BNFAST_INLINE V backward_through(const Act& act, V z, V dz) {
    return dz * act.derivative(z);
}
template <class T, class V>
BNFAST_INLINE V backward_through(const Relu<T>& relu, V z, V dz) {
    return select(relu.passes(z), dz, V(0));
}

}  // namespace bnfast::BNFAST_NUMERICS
