// The front desk of normalizations whose statistics are a sample's own.
#include "bnfast/norms.h"

#include "api/norm.h"

namespace bnfast {
namespace {

using api::Call;
using api::Operation;

// One or more: 0 stands for instance norm.
void check_groups(const Operation& operation) {
    if (operation.groups < 1) {
        api::fail(operation.name, "num_groups is " + std::to_string(operation.groups) + ", expected at least 1");
    }
}

void run(const Operation& operation, const NormInputs& inputs, const NormOptions& options, const TensorView& y,
         const std::optional<TensorView>& h, NormState& state) {
    if (inputs.where) api::fail(operation.name, "where is there, expected it absent");
    Call call = api::begin_forward(operation, inputs, options, y);
    if (operation.has_prologue()) api::add_h(operation, inputs, y, h, call);
    api::finish_checks(operation, inputs, y, {inputs.gamma, inputs.beta, {}, {}}, call, state);
    call.backend->forward(call.problem);
}

}  // namespace

std::int64_t group_norm_state_size(const TensorView& x, std::int64_t groups, int axis) {
    const Operation operation{"group_norm_state_size", Scope::kGroup, groups};
    check_groups(operation);
    return api::state_size(operation, x, axis);
}
std::int64_t instance_norm_state_size(const TensorView& x, int axis) {
    return api::state_size({"instance_norm_state_size", Scope::kGroup}, x, axis);
}
std::int64_t layer_norm_state_size(const TensorView& x, int axis) {
    return api::state_size({"layer_norm_state_size", Scope::kLastAxes}, x, axis);
}

void group_norm(const NormInputs& inputs, std::int64_t groups, const NormOptions& options, const TensorView& y,
                NormState& state) {
    const Operation operation{"group_norm", Scope::kGroup, groups};
    check_groups(operation);
    run(operation, inputs, options, y, std::nullopt, state);
}

void instance_norm(const NormInputs& inputs, const NormOptions& options, const TensorView& y, NormState& state) {
    run({"instance_norm", Scope::kGroup}, inputs, options, y, std::nullopt, state);
}

void layer_norm(const NormInputs& inputs, const NormOptions& options, const TensorView& y,
                const std::optional<TensorView>& h, NormState& state) {
    run({"layer_norm", Scope::kLastAxes}, inputs, options, y, h, state);
}

void rms_norm(const NormInputs& inputs, const NormOptions& options, const TensorView& y,
              const std::optional<TensorView>& h, NormState& state) {
    if (inputs.beta) api::fail("rms_norm", "beta is there, expected it absent");
    run({"rms_norm", Scope::kLastAxes, 0, Centre::kZero}, inputs, options, y, h, state);
}

void norm_backward(const NormBackwardInputs& inputs, const NormState& state, const NormGradients& gradients) {
    const Operation operation{"norm_backward", state.scope, state.groups, state.centre};
    if (state.scope == Scope::kBatch) api::fail(operation.name, "state is that of a batch norm, expected another's");
    if (inputs.where) api::fail(operation.name, "where is there, expected it absent");
    Call call = api::begin_backward(operation, inputs, state);
    api::add_gradients(operation, inputs, gradients, call);
    call.backend->backward(call.problem);
}

}  // namespace bnfast
