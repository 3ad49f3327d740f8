// The activations of loops, and the choice of the loop that fits a task.
//
// Loops know identity and ReLU at compile time, as these cost next to nothing. All other activations go through one
// general loop, which handles up to 512 elements in stages: it computes all z, calls the activation for all of them,
// and goes on from the result. The functions are compiled once for a target and a type computed in (activations.cpp),
// so that the code of the kernels grows with the sum of activations and element types, not with their product.
#pragma once

#include "cpu/kernels/span.h"
#include "numerics/activations.h"

namespace bnfast {
namespace BNFAST_TARGET {

constexpr std::int64_t kStaged = 512;  // elements that a general loop handles at once: in L1, and worth a call

// Functions of n elements, or as many as fill the last vector, in place. gradient makes dz, the gradient at the
// activation's output, that at z. The last two start from the output y, as in-place batch norm does; they are there for
// the activations that it admits.
template <class T>
struct ActivationFunctions {
    void (*forward)(T* z, std::int64_t n, T slope);
    void (*gradient)(const T* z, T* dz, std::int64_t n, T slope);
    void (*inverse)(T* y, std::int64_t n, T slope) = nullptr;
    void (*gradient_from_output)(const T* y, T* dz, std::int64_t n, T slope) = nullptr;
};
template <class T>
ActivationFunctions<T> functions_of(Activation activation) noexcept;
template <>
ActivationFunctions<float> functions_of(Activation activation) noexcept;
template <>
ActivationFunctions<double> functions_of(Activation activation) noexcept;

template <class KnownActivation>
struct IsIdentity {
    static constexpr bool kValue = false;
};
template <class T>
struct IsIdentity<Identity<T>> {
    static constexpr bool kValue = true;
};

// What a loop over a task is compiled for. Asking at every vector for what a call may have would be half of the work of
// identity and ReLU, so these have plain loops, with dropout and without; all else goes through the general loop.
template <class T, class KnownActivation, bool kDropout>
struct PlainLoop {
    static constexpr bool kPlain = true;  // neither where nor prescale, and backward from x
    static constexpr bool kPassesDy = !kDropout && IsIdentity<KnownActivation>::kValue;  // as dz, as it is
    KnownActivation activation{T(0)};

    static constexpr bool drops(bool) { return kDropout; }
};
template <class T>
class GeneralLoop {
  public:
    static constexpr bool kPlain = false, kPassesDy = false;

    BNFAST_INLINE explicit GeneralLoop(const cpu::ActivationCall& call)
        : from_output(call.from_output),
          is_identity_(call.activation == Activation::kNone),
          slope_(static_cast<T>(call.slope)),
          functions_(functions_of<T>(call.activation)) {}

    // Whether there is dropout; `used` is what the task says.
    static constexpr bool drops(bool used) { return used; }
    BNFAST_INLINE void forward(T* z, std::int64_t n) const {
        if (!is_identity_) functions_.forward(z, n, slope_);
    }
    // Makes dz the gradient at the pre-activation; from the output, makes y the pre-activation, too.
    BNFAST_INLINE void backward(T* z_or_y, T* dz, std::int64_t n) const {
        if (is_identity_) return;
        if (!from_output) return functions_.gradient(z_or_y, dz, n, slope_);
        functions_.gradient_from_output(z_or_y, dz, n, slope_);
        functions_.inverse(z_or_y, n, slope_);
    }

    const bool from_output;  // backward: x holds y

  private:
    bool is_identity_;
    T slope_;
    ActivationFunctions<T> functions_;
};

// Calls f with the loop for the task.
template <class T, class Task, class F>
BNFAST_INLINE void with_loop(const Task& task, F f) {
    const cpu::ActivationCall& call = task.activation;
    const bool plain = !task.where.are_there() && !task.affine.prescaled && !call.from_output;
    if (plain && call.activation == Activation::kNone) {
        return task.mask.used ? f(PlainLoop<T, Identity<T>, true>{}) : f(PlainLoop<T, Identity<T>, false>{});
    }
    if (plain && call.activation == Activation::kRelu) {
        return task.mask.used ? f(PlainLoop<T, Relu<T>, true>{}) : f(PlainLoop<T, Relu<T>, false>{});
    }
    f(GeneralLoop<T>(call));
}
// Most norms whose parameters lie along the inner elements have nothing behind them: they have loops of their own
// (along_forward.h, along_backward.h), and the general one serves the rest.
template <class Task>
BNFAST_INLINE bool is_plain_identity(const Task& task) {
    return !task.where.are_there() && !task.activation.from_output && !task.mask.used &&
           task.activation.activation == Activation::kNone && !task.residual.is_there();
}
// The coefficients and where bits of a task, known to have none if its loop is plain.
template <bool kPlain>
BNFAST_INLINE AffineArrays known(AffineArrays affine) {
    if (kPlain) affine.prescaled = affine.has_inverse = false;
    return affine;
}
template <bool kPlain>
BNFAST_INLINE WhereBits known(WhereBits where) {
    return kPlain ? WhereBits{} : where;
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
