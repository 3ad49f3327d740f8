// The activation of a call, chosen for each element by a branch that all threads take alike.
#pragma once

#include "bnfast/norm_options.h"
#include "cuda/device.h"
#include "numerics/activations.h"

namespace bnfast::cuda {

// kSimple: none or ReLU, in a kernel that has no code of the others, which would take registers from it.
template <class T, bool kSimple>
struct ActivationOf {
    Activation which;
    T slope;

    BNFAST_DEVICE T forward(T z) const {
        if (which == Activation::kNone) return z;
        if constexpr (kSimple) {
            return numerics::Relu<T>(slope).forward(z);
        } else {
            return with([&](const auto& activation) { return activation.forward(z); });
        }
    }
    // The gradient at z, given that at the activation's output.
    BNFAST_DEVICE T backward(T z, T dz) const {
        if (which == Activation::kNone) return dz;
        if constexpr (kSimple) {
            return numerics::backward_through(numerics::Relu<T>(slope), z, dz);
        } else {
            return with([&](const auto& activation) { return numerics::backward_through(activation, z, dz); });
        }
    }
    // z and the derivative there from the output y, for those activations that can be undone.
    BNFAST_DEVICE T inverse(T y) const {
        return undone([&](const auto& activation) { return activation.inverse(y); });
    }
    BNFAST_DEVICE T derivative_from_output(T y) const {
        return undone([&](const auto& activation) { return activation.derivative_from_output(y); });
    }

  private:
    template <class F>
    BNFAST_DEVICE T with(F f) const {
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
    template <class F>
    BNFAST_DEVICE T undone(F f) const {
        if constexpr (!kSimple) {
            if (which == Activation::kLeakyRelu) return f(numerics::LeakyRelu<T>(slope));
            if (which == Activation::kElu) return f(numerics::Elu<T>(slope));
        }
        return f(numerics::Identity<T>(slope));
    }
};

}  // namespace bnfast::cuda
