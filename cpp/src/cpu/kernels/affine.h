// The affine map of a channel, from its coefficients; activations as values; what a loop is compiled for.
#pragma once

#include "cpu/kernels/span.h"
#include "numerics/activations.h"

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

// An activation that backward sees from its output alone, where batch norm wrote y over x.
template <class Act>
struct FromOutput {
    Act act;
};
template <class Act>
struct IsFromOutput {
    static constexpr bool kValue = false;
};
template <class Act>
struct IsFromOutput<FromOutput<Act>> {
    static constexpr bool kValue = true;
};

// Calls f with the activation as a value, so that the loop around it is compiled for each one.
template <class T, class F>
BNFAST_INLINE void with_activation(Activation activation, double slope, F f) {
    const T parameter = static_cast<T>(slope);
    switch (activation) {
        case Activation::kNone: return f(Identity<T>(parameter));
        case Activation::kRelu: return f(Relu<T>(parameter));
        case Activation::kLeakyRelu: return f(LeakyRelu<T>(parameter));
        case Activation::kSigmoid: return f(Sigmoid<T>(parameter));
        case Activation::kTanh: return f(Tanh<T>(parameter));
        case Activation::kSilu: return f(Silu<T>(parameter));
        case Activation::kGelu: return f(Gelu<T>(parameter));
        case Activation::kElu: return f(Elu<T>(parameter));
    }
}
// The same for backward, which may have to start from the activation's output.
template <class T, class F>
BNFAST_INLINE void with_activation(const BackwardTask& task, F f) {
    const T parameter = static_cast<T>(task.activation_slope);
    if (!task.from_output) return with_activation<T>(task.activation, task.activation_slope, f);
    switch (task.activation) {
        case Activation::kLeakyRelu: return f(FromOutput<LeakyRelu<T>>{LeakyRelu<T>(parameter)});
        case Activation::kElu: return f(FromOutput<Elu<T>>{Elu<T>(parameter)});
        default: return f(FromOutput<Identity<T>>{Identity<T>(parameter)});
    }
}

template <class A>
struct IsIdentity {
    static constexpr bool kValue = false;
};
template <class T>
struct IsIdentity<Identity<T>> {
    static constexpr bool kValue = true;
};

// The centred input (x - mean) * prescale, and from it the affine's output: one definition for forward and backward, so
// that the backward's pre-activation is the forward's, bit for bit.
template <class T>
struct Affine {
    Vec<T> mean_high, mean_low, scale, shift, inverse;
    bool has_prescale;
    Vec<T> prescale;

    BNFAST_INLINE Vec<T> centre(Vec<T> x) const {
        if (has_prescale) x = x * prescale;
        return (x - mean_high) - mean_low;
    }
    BNFAST_INLINE Vec<T> apply(Vec<T> centred) const { return centred * scale + shift; }
    BNFAST_INLINE Vec<T> undo(Vec<T> z) const { return (z - shift) * inverse; }
};

template <class T, bool kRows>
BNFAST_INLINE Affine<T> load_affine(const Coefficients& c, std::int64_t channel) {
    const auto get = [&](const void* values) __attribute__((always_inline)) {
        return kRows ? row_coefficient<T>(values, channel) : plane_coefficient<T>(values, channel);
    };
    const Vec<T> one(1);
    Affine<T> affine{get(c.mean_high), get(c.mean_low), get(c.scale), get(c.shift), one, c.prescale != nullptr, one};
    if (c.inverse != nullptr) affine.inverse = get(c.inverse);
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

// What the loops over a task are compiled for. Asking at every vector for what a call may have would be half of the
// work of the activations that cost next to nothing, so these have loops of their own for calls without where and
// prescale.
enum class Extras { kNone, kDropout, kAny };

template <Extras kExtras>
struct LoopOf {
    static constexpr bool kPlain = kExtras != Extras::kAny;  // neither where nor prescale
    static constexpr bool kDropsNothing = kExtras == Extras::kNone;
    // Whether there is dropout; `used` is what the task says.
    static BNFAST_INLINE bool drops(bool used) {
        return kExtras == Extras::kDropout || (kExtras == Extras::kAny && used);
    }
};
template <class Act>
struct IsLight {
    static constexpr bool kValue = IsIdentity<Act>::kValue;
};
template <class T>
struct IsLight<Relu<T>> {
    static constexpr bool kValue = true;
};
// Calls f with the LoopOf for the task and the activation.
template <class Act, class Task, class F>
BNFAST_INLINE void with_loop(const Task& task, F f) {
    if constexpr (IsLight<Act>::kValue) {
        if (task.where.bits == nullptr && task.coefficients.prescale == nullptr) {
            return task.keep.used ? f(LoopOf<Extras::kDropout>{}) : f(LoopOf<Extras::kNone>{});
        }
    }
    f(LoopOf<Extras::kAny>{});
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
