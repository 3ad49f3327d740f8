// Activations as values that a loop holds, and the choice of the loop that fits a task.
//
// Loops know identity and ReLU at compile time, as these cost next to nothing. All other activations are called, once
// a vector, through functions that are compiled once for a target and a type computed in (activations.cpp): the code
// of the kernels grows with the sum of activations and element types, not with their product.
#pragma once

#include "cpu/kernels/span.h"
#include "numerics/activations.h"

namespace bnfast {
namespace BNFAST_TARGET {

// gradient gives that at z from that at the activation's output, dz. The last two start from the output y, as in-place
// batch norm does; the other activations than those that it admits lack them.
template <class T>
struct ActivationFunctions {
    Vec<T> (*forward)(Vec<T> z, T slope);
    Vec<T> (*gradient)(Vec<T> z, Vec<T> dz, T slope);
    Vec<T> (*inverse)(Vec<T> y, T slope) = nullptr;
    Vec<T> (*gradient_from_output)(Vec<T> y, Vec<T> dz, T slope) = nullptr;
};
template <class T>
ActivationFunctions<T> functions_of(Activation activation) noexcept;
template <>
ActivationFunctions<float> functions_of(Activation activation) noexcept;
template <>
ActivationFunctions<double> functions_of(Activation activation) noexcept;

// Any activation, as a value with the interface of those in numerics/activations.h; identity is not called.
template <class T>
class AnyActivation {
  public:
    BNFAST_INLINE explicit AnyActivation(const cpu::ActivationCall& call)
        : is_identity_(call.activation == Activation::kNone),
          slope_(static_cast<T>(call.slope)),
          functions_(functions_of<T>(call.activation)) {}

    BNFAST_INLINE Vec<T> forward(Vec<T> z) const { return is_identity_ ? z : functions_.forward(z, slope_); }
    BNFAST_INLINE Vec<T> gradient(Vec<T> z, Vec<T> dz) const {
        return is_identity_ ? dz : functions_.gradient(z, dz, slope_);
    }
    BNFAST_INLINE Vec<T> inverse(Vec<T> y) const { return is_identity_ ? y : functions_.inverse(y, slope_); }
    BNFAST_INLINE Vec<T> gradient_from_output(Vec<T> y, Vec<T> dz) const {
        return is_identity_ ? dz : functions_.gradient_from_output(y, dz, slope_);
    }

  private:
    bool is_identity_;
    T slope_;
    ActivationFunctions<T> functions_;
};
template <class T>
BNFAST_INLINE Vec<T> backward_through(const AnyActivation<T>& activation, Vec<T> z, Vec<T> dz) {
    return activation.gradient(z, dz);
}

template <class KnownActivation>
struct IsIdentity {
    static constexpr bool kValue = false;
};
template <class T>
struct IsIdentity<Identity<T>> {
    static constexpr bool kValue = true;
};

// What a loop over a task is compiled for. Asking at every vector for what a call may have would be half of the work of
// identity and ReLU, so these have plain loops, with dropout and without; all else goes through one general loop.
template <class T, class KnownActivation, bool kDropout>
struct PlainLoop {
    static constexpr bool kPlain = true;  // neither where nor prescale, and backward from x
    static constexpr bool kDropsNothing = !kDropout;
    static constexpr bool kPassesDy = !kDropout && IsIdentity<KnownActivation>::kValue;  // as dz, as it is
    KnownActivation activation{T(0)};

    static BNFAST_INLINE bool drops(bool) { return kDropout; }
};
template <class T>
struct GeneralLoop {
    static constexpr bool kPlain = false, kDropsNothing = false, kPassesDy = false;
    AnyActivation<T> activation;
    bool from_output;  // backward: x holds y

    BNFAST_INLINE explicit GeneralLoop(const cpu::ActivationCall& call)
        : activation(call), from_output(call.from_output) {}
    // Whether there is dropout; `used` is what the task says.
    static BNFAST_INLINE bool drops(bool used) { return used; }
};

// Calls f with the loop for the task.
template <class T, class Task, class F>
BNFAST_INLINE void with_loop(const Task& task, F f) {
    const cpu::ActivationCall& call = task.activation;
    const bool plain = task.where.bits == nullptr && task.coefficients.prescale == nullptr && !call.from_output;
    if (plain && call.activation == Activation::kNone) {
        return task.keep.used ? f(PlainLoop<T, Identity<T>, true>{}) : f(PlainLoop<T, Identity<T>, false>{});
    }
    if (plain && call.activation == Activation::kRelu) {
        return task.keep.used ? f(PlainLoop<T, Relu<T>, true>{}) : f(PlainLoop<T, Relu<T>, false>{});
    }
    f(GeneralLoop<T>(call));
}
// The coefficients and where bits of a task, known to have none if its loop is plain.
template <bool kPlain>
BNFAST_INLINE Coefficients known(Coefficients coefficients) {
    if (kPlain) coefficients.prescale = nullptr;
    return coefficients;
}
template <bool kPlain>
BNFAST_INLINE WhereBits known(WhereBits where) {
    return kPlain ? WhereBits{} : where;
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
