// The activations of one target as functions, compiled once for each type computed in.
#include "cpu/kernels/activations.h"

namespace bnfast {
namespace BNFAST_TARGET {
namespace {

template <class Act, class T>
void forward(T* z, std::int64_t n, T slope) {
    const Act act(slope);
    for (std::int64_t i = 0; i < n; i += kLanes) store(z + i, act.forward(load(z + i)));
}
template <class Act, class T>
void gradient(const T* z, T* dz, std::int64_t n, T slope) {
    const Act act(slope);
    for (std::int64_t i = 0; i < n; i += kLanes) store(dz + i, backward_through(act, load(z + i), load(dz + i)));
}
template <class Act, class T>
void inverse(T* y, std::int64_t n, T slope) {
    const Act act(slope);
    for (std::int64_t i = 0; i < n; i += kLanes) store(y + i, act.inverse(load(y + i)));
}
template <class Act, class T>
void gradient_from_output(const T* y, T* dz, std::int64_t n, T slope) {
    const Act act(slope);
    for (std::int64_t i = 0; i < n; i += kLanes) {
        store(dz + i, load(dz + i) * act.derivative_from_output(load(y + i)));
    }
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
