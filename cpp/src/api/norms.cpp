// The front desk of normalizations whose statistics are a sample's own.
#include "bnfast/norms.h"

#include "api/norm.h"

namespace bnfast {

std::int64_t instance_norm_state_size(const TensorView& x, int axis) {
    return api::state_size({"instance_norm_state_size", Scope::kSample}, x, axis);
}

void instance_norm(const NormInputs& inputs, const NormOptions& options, const TensorView& y, NormState& state) {
    const api::Operation operation{"instance_norm", Scope::kSample};
    if (inputs.where) api::fail(operation.name, "where is there, expected it absent");
    api::Call call = api::begin_forward(operation, inputs, options, y);
    api::finish_checks(operation, inputs, y, {inputs.gamma, inputs.beta, {}, {}}, call, state);
    call.backend->forward(call.problem);
}

void norm_backward(const NormBackwardInputs& inputs, const NormState& state, const NormGradients& gradients) {
    const api::Operation operation{"norm_backward", Scope::kSample};
    if (inputs.where) api::fail(operation.name, "where is there, expected it absent");
    api::Call call = api::begin_backward(operation, inputs, state);
    api::add_gradients(operation, inputs, gradients, call);
    call.backend->backward(call.problem);
}

}  // namespace bnfast
