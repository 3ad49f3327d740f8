// The activation of a call, chosen for each element by a branch that all threads take alike.
#pragma once

#include "bnfast/norm_options.h"
#include "cuda/device.h"
#include "numerics/activations.h"

namespace bnfast::cuda {

// Calls f with an activation other than none.
template <class T, class F>
BNFAST_DEVICE T with_activation(Activation which, T slope, F f) {
    switch (which) {
        case Activation::kRelu: return f(numerics::Relu<T>(slope));
        case Activation::kLeakyRelu: return f(numerics::LeakyRelu<T>(slope));
        case Activation::kSigmoid: return f(numerics::Sigmoid<T>(slope));
        case Activation::kTanh: return f(numerics::Tanh<T>(slope));
        case Activation::kSilu: return f(numerics::Silu<T>(slope));
        case Activation::kGelu: return f(numerics::Gelu<T>(slope));
        case Activation::kElu: return f(numerics::Elu<T>(slope));
        default: return f(numerics::Identity<T>(slope));
    }
}
template <class T>
BNFAST_DEVICE_CALL T activated(Activation which, T slope, T z) {
    return with_activation(which, slope, [&](const auto& activation) { return activation.forward(z); });
}
template <class T>
BNFAST_DEVICE_CALL T gradient_before(Activation which, T slope, T z, T dz) {
    return with_activation(which, slope,
                           [&](const auto& activation) { return numerics::backward_through(activation, z, dz); });
}
// z from the output y, and the derivative there, for those activations that can be undone.
template <class T>
struct Undone {
    T z, derivative;
};
template <class T>
BNFAST_DEVICE_CALL Undone<T> undone(Activation which, T slope, T y) {
    const auto undo = [&](const auto& activation) {
        return Undone<T>{activation.inverse(y), activation.derivative_from_output(y)};
    };
    if (which == Activation::kLeakyRelu) return undo(numerics::LeakyRelu<T>(slope));
    if (which == Activation::kElu) return undo(numerics::Elu<T>(slope));
    return undo(numerics::Identity<T>(slope));
}

// kPlain: none or ReLU, without the code of the others.
template <class T, bool kPlain>
struct ActivationOf {
    Activation which;
    T slope;

    BNFAST_DEVICE T forward(T z) const {
        if (which == Activation::kNone) return z;
        if constexpr (kPlain) {
            return numerics::Relu<T>(slope).forward(z);
        } else {
            return activated(which, slope, z);
        }
    }
    // The gradient at z, given that at the activation's output.
    BNFAST_DEVICE T backward(T z, T dz) const {
        if (which == Activation::kNone) return dz;
        if constexpr (kPlain) {
            return numerics::backward_through(numerics::Relu<T>(slope), z, dz);
        } else {
            return gradient_before(which, slope, z, dz);
        }
    }
    BNFAST_DEVICE Undone<T> undo(T y) const {
        if constexpr (kPlain) {
            return {y, T(1)};  // ReLU cannot be undone
        } else {
            return undone(which, slope, y);
        }
    }
};

}  // namespace bnfast::cuda
