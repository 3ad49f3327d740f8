// The activations of one target as functions of a vector, compiled once for each type computed in.
#include "cpu/kernels/activations.h"

namespace bnfast {
namespace BNFAST_TARGET {
namespace {

template <class Act, class T>
Vec<T> forward(Vec<T> z, T slope) {
    return Act(slope).forward(z);
}
template <class Act, class T>
Vec<T> gradient(Vec<T> z, Vec<T> dz, T slope) {
    return backward_through(Act(slope), z, dz);
}
template <class Act, class T>
Vec<T> inverse(Vec<T> y, T slope) {
    return Act(slope).inverse(y);
}
template <class Act, class T>
Vec<T> gradient_from_output(Vec<T> y, Vec<T> dz, T slope) {
    return dz * Act(slope).derivative_from_output(y);
}

template <class Act, class T>
ActivationFunctions<T> from_input() {
    return {&forward<Act, T>, &gradient<Act, T>};
}
template <class Act, class T>
ActivationFunctions<T> from_both_sides() {
    return {&forward<Act, T>, &gradient<Act, T>, &inverse<Act, T>, &gradient_from_output<Act, T>};
}

template <class T>
ActivationFunctions<T> choose(Activation activation) {
    switch (activation) {
        case Activation::kNone: return from_both_sides<Identity<T>, T>();
        case Activation::kRelu: return from_input<Relu<T>, T>();
        case Activation::kLeakyRelu: return from_both_sides<LeakyRelu<T>, T>();
        case Activation::kSigmoid: return from_input<Sigmoid<T>, T>();
        case Activation::kTanh: return from_input<Tanh<T>, T>();
        case Activation::kSilu: return from_input<Silu<T>, T>();
        case Activation::kGelu: return from_input<Gelu<T>, T>();
        case Activation::kElu: return from_both_sides<Elu<T>, T>();
    }
    return from_both_sides<Identity<T>, T>();
}

}  // namespace

template <>
ActivationFunctions<float> functions_of(Activation activation) noexcept {
    return choose<float>(activation);
}
template <>
ActivationFunctions<double> functions_of(Activation activation) noexcept {
    return choose<double>(activation);
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
