// What all forward operations take from Python, and their tensors.
#pragma once

#include "arrays.h"
#include "bnfast/batch_norm.h"
#include "fast_call.h"

namespace bnfast::bindings {

// The fields of the options are arguments, too.
struct ForwardCall : NormOptions {
    py::handle x, gamma = Py_None, beta = Py_None, residual = Py_None, out = Py_None;
    static constexpr auto kForwardFields =
        std::make_tuple(required("x", &ForwardCall::x), optional("gamma", &ForwardCall::gamma),
                        optional("beta", &ForwardCall::beta), optional("axis", &ForwardCall::axis),
                        optional("eps", &ForwardCall::eps), optional("residual", &ForwardCall::residual),
                        optional("activation", &ForwardCall::activation),
                        optional("activation_slope", &ForwardCall::activation_slope),
                        optional("eps_placement", &ForwardCall::eps_placement), optional("out", &ForwardCall::out));
};

// Dropout behind the activation, for operations that have it.
constexpr auto kDropoutFields =
    std::make_tuple(optional("dropout", &ForwardCall::dropout), optional("seed", &ForwardCall::seed),
                    optional("offset", &ForwardCall::offset));

// The tensors of a forward call, with memory for their shapes.
struct ForwardViews {
    ForwardViews(const char* operation, const ForwardCall& call, const py::handle& where_array = Py_None) {
        inputs.x = x.bind(operation, "x", call.x);
        const Device& device = inputs.x.device;
        inputs.gamma = gamma.bind_optional_channels(operation, "gamma", call.gamma, device);
        inputs.beta = beta.bind_optional_channels(operation, "beta", call.beta, device);
        inputs.residual = residual.bind_optional(operation, "residual", call.residual, device);
        inputs.where = where.bind_where(operation, where_array, device);
    }
    ArrayView x, gamma, beta, residual, where;
    NormInputs inputs;
};

// The size of a state, from size(x, axis); 0 where x has no such axis, as the call itself will say.
template <class Size>
std::int64_t size_or_zero(Size size, const TensorView& x, int axis) {
    try {
        return size(x, axis);
    } catch (const ValueError&) {
        return 0;
    }
}

}  // namespace bnfast::bindings
