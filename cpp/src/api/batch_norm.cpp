// The front desk of batch normalization.
#include "bnfast/batch_norm.h"

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "api/norm.h"

namespace bnfast {
namespace {

using api::Call;
using api::fail;
using api::Operation;

// Statistics of nothing are no statistics of a batch that takes part with `own` elements a channel.
void check_counts(const Operation& operation, const char* name, const std::vector<std::int64_t>& counts,
                  std::int64_t own) {
    const auto negative = std::find_if(counts.begin(), counts.end(), [](std::int64_t count) { return count < 0; });
    if (negative != counts.end()) {
        fail(operation.name, std::string(name) + " counts " + std::to_string(*negative) + " elements in channel " +
                                 std::to_string(negative - counts.begin()) + ", expected numbers >= 0");
    }
    const auto none = std::find(counts.begin(), counts.end(), 0);
    if (own == 0 || none == counts.end()) return;
    fail(operation.name, std::string(name) + " counts no element in channel " + std::to_string(none - counts.begin()) +
                             ", expected at least one in each, as x has " + std::to_string(own));
}

// Vectors that should all have an entry for each channel have these sizes.
void check_channels(const Operation& operation, const char* name, std::initializer_list<std::size_t> sizes,
                    const Call& call) {
    const TensorView& x = call.problem.x;
    const std::int64_t channels = x.shape[call.axis];
    for (const std::size_t size : sizes) {
        if (size == static_cast<std::size_t>(channels)) continue;
        fail(operation.name, std::string(name) + " has " + std::to_string(size) + " channels, expected " +
                                 std::to_string(channels) + " to match axis " + std::to_string(call.axis) +
                                 " of x with shape " + api::shape_text(x));
    }
}

// x normalised by the given mean and var.
Call begin_constant(const Operation& operation, const NormInputs& inputs, const TensorView& mean, const TensorView& var,
                    const NormOptions& options, const TensorView& y) {
    const Call call = api::begin_forward(operation, inputs, options, y);
    if (options.dropout != 0) fail(operation.name, "dropout is " + api::number_text(options.dropout) + ", expected 0");
    const api::Memory out = api::memory_of(y);
    api::check_channel_values(operation.name, "mean", mean, inputs.x, call.axis);
    api::check_channel_values(operation.name, "var", var, inputs.x, call.axis);
    api::check_disjoint(operation.name, out, "out", "mean", mean);
    api::check_disjoint(operation.name, out, "out", "var", var);
    if (const auto negative = call.backend->first_negative(var)) {
        fail(operation.name, "var is " + api::number_text(negative->value) + " in channel " +
                                 std::to_string(negative->channel) + ", expected numbers >= 0");
    }
    return call;
}

}  // namespace

std::int64_t batch_norm_state_size(const TensorView& x, int axis) {
    return api::state_size({"batch_norm_state_size", Scope::kBatch}, x, axis);
}

Moments moments(const TensorView& x, const std::optional<TensorView>& where, int axis) {
    const char* const operation = "moments";
    api::check_tensor(operation, "x", x);
    axis = api::check_axis(operation, x, axis);
    const Backend& backend = api::check_device(operation, "x", x.device);
    if (where) api::check_where(operation, *where, x, axis);
    NormProblem problem;
    problem.x = x;
    problem.where = where;
    problem.layout = memory_layout(x, {Scope::kBatch, axis, 0});
    Moments result;
    backend.moments(problem, result);
    return result;
}

void batch_norm(const NormInputs& inputs, const NormOptions& options, const TensorView& y, NormState& state) {
    const Operation operation{"batch_norm", Scope::kBatch};
    Call call = api::begin_forward(operation, inputs, options, y);
    api::finish_checks(operation, inputs, y, {inputs.gamma, inputs.beta, {}, {}}, call, state);
    call.backend->forward(call.problem);
}

void batch_norm_with_stats(const NormInputs& inputs, const NormOptions& options, const Moments& stats,
                           const TensorView& y, NormState& state) {
    const Operation operation{"batch_norm", Scope::kBatch};
    Call call = api::begin_forward(operation, inputs, options, y);
    check_channels(operation, "stats", {stats.count.size(), stats.mean.size(), stats.mean_low.size(), stats.m2.size()},
                   call);
    const std::int64_t own = call.backend->count_taking_part(call.problem);
    check_counts(operation, "stats", stats.count, own);
    const auto negative = std::find_if(stats.m2.begin(), stats.m2.end(), [](double m2) { return m2 < 0; });
    if (negative != stats.m2.end()) {
        fail(operation.name, "stats has m2 " + api::number_text(*negative) + " in channel " +
                                 std::to_string(negative - stats.m2.begin()) + ", expected numbers >= 0");
    }
    call.state.foreign_stats =
        std::any_of(stats.count.begin(), stats.count.end(), [&](std::int64_t count) { return count != own; });
    api::finish_checks(operation, inputs, y, {inputs.gamma, inputs.beta, {}, {}}, call, state);
    call.backend->set_statistics(call.problem, stats);
    call.backend->normalise(call.problem);
}

void batch_norm_inference(const NormInputs& inputs, const TensorView& mean, const TensorView& var,
                          const NormOptions& options, const TensorView& y) {
    const Operation operation{"batch_norm_inference", Scope::kBatch};
    const Call call = begin_constant(operation, inputs, mean, var, options, y);
    call.backend->inference(call.problem, {inputs.gamma, inputs.beta, mean, var});
}

void batch_norm_frozen(const NormInputs& inputs, const TensorView& mean, const TensorView& var,
                       const NormOptions& options, const TensorView& y, NormState& state) {
    const Operation operation{"batch_norm_frozen", Scope::kBatch};
    Call call = begin_constant(operation, inputs, mean, var, options, y);
    call.state.constant_statistics = true;
    api::finish_checks(operation, inputs, y, {inputs.gamma, inputs.beta, mean, var}, call, state);
    call.backend->normalise(call.problem);
}

GradientSums batch_norm_backward_sums(const NormBackwardInputs& inputs, const NormState& state) {
    const Call call = api::begin_backward({"batch_norm_backward_sums", Scope::kBatch}, inputs, state);
    GradientSums sums;
    call.backend->gradient_sums(call.problem, sums);
    return sums;
}

void batch_norm_backward(const NormBackwardInputs& inputs, const NormState& state, const NormGradients& gradients) {
    const Operation operation{"batch_norm_backward", Scope::kBatch};
    Call call = api::begin_backward(operation, inputs, state);
    api::add_gradients(operation, inputs, gradients, call);
    if (state.foreign_stats) {
        fail(operation.name,
             "sums is None, expected the GradientSums of the whole batch, since stats counted other elements "
             "than x has");
    }
    call.backend->backward(call.problem);
}

void batch_norm_backward_with_sums(const NormBackwardInputs& inputs, const NormState& state, const GradientSums& total,
                                   const NormGradients& gradients) {
    const Operation operation{"batch_norm_backward", Scope::kBatch};
    Call call = api::begin_backward(operation, inputs, state);
    api::add_gradients(operation, inputs, gradients, call);
    check_channels(operation, "sums", {total.count.size(), total.sum_dy.size(), total.sum_dy_xmu.size()}, call);
    check_counts(operation, "sums", total.count, call.backend->count_taking_part(call.problem));
    call.backend->backward_with_sums(call.problem, total);
}

}  // namespace bnfast
