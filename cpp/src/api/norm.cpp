// What the front desks of all normalizations share: checks of a forward and of a backward call, and the
// NormProblem that they pass to the backend.
#include "api/norm.h"

#include <algorithm>
#include <cmath>

#include "numerics/mask.h"

namespace bnfast::api {
namespace {

std::int64_t statistics_of(const TensorView& x, int axis, Scope scope) {
    return x.shape[axis] * (scope == Scope::kSample ? x.shape[0] : 1);
}

int check_x(const Operation& operation, const TensorView& x, int axis) {
    check_tensor(operation.name, "x", x);
    const int from_front = check_axis(operation.name, x, axis);
    if (operation.scope == Scope::kSample && from_front == 0) {
        fail(operation.name, "axis is " + std::to_string(axis) + ", expected another than that of the samples, 0");
    }
    return from_front;
}

void check_room(const Operation& operation, const NormState& state) {
    const std::int64_t size = state.size();
    if (size > 0) check_pointer(operation.name, "state.values", state.values);
    if (state.capacity < size) {
        fail(operation.name, "state has room for " + std::to_string(state.capacity) + " numbers, expected " +
                                 std::to_string(size) + " for x");
    }
}

// What the call is, as backward will want to know.
void describe(const NormInputs& inputs, const NormOptions& options, int axis, Scope scope, NormState& state) {
    const TensorView& x = inputs.x;
    state.options = options;
    state.options.axis = axis;
    state.dtype = x.dtype;
    state.ndim = x.ndim;
    std::copy_n(x.shape, x.ndim, state.shape);
    state.statistics = statistics_of(x, axis, scope);
    state.parameters = x.shape[axis];
    state.has_gamma = inputs.gamma.has_value();
    state.has_beta = inputs.beta.has_value();
    state.has_residual = inputs.residual.has_value();
    state.has_where = inputs.where.has_value();
    state.constant_statistics = state.in_place = state.foreign_stats = false;
}

void describe_problem(const TensorView& x, const NormOptions& options, int axis, Scope scope, const NormState& state,
                      NormProblem& problem) {
    problem.x = x;
    problem.layout = memory_layout(x, axis, scope);
    problem.eps = options.eps;
    problem.eps_placement = options.eps_placement;
    problem.epilogue.activation = options.activation;
    problem.epilogue.activation_slope = options.activation_slope;
    problem.epilogue.dropout = numerics::mask_of(options.dropout, options.seed, options.offset);
    problem.epilogue.dropout_scale = numerics::dropout_scale(options.dropout);
    problem.numbers = state;
}

// What lets x be computed from y: ValueError for other activations, and for residual, dropout or where.
void check_invertible(const char* operation, const NormInputs& inputs, const NormOptions& options) {
    const std::string in_place = "out is x (y overwrites what backward needs), expected ";
    if (inputs.residual) fail(operation, in_place + "no residual");
    if (inputs.where) fail(operation, in_place + "no where");
    if (options.dropout > 0) fail(operation, in_place + "dropout 0, got " + number_text(options.dropout));
    switch (options.activation) {
        case Activation::kNone: return;
        case Activation::kLeakyRelu:
            if (options.activation_slope > 0) return;
            fail(operation, in_place + "activation_slope > 0, got " + number_text(options.activation_slope));
        case Activation::kElu:
            if (item_size(inputs.x.dtype) > 2) return;
            fail(operation, in_place + "another activation than elu for x of " + dtype_name(inputs.x.dtype));
        default: fail(operation, in_place + "activation None, leaky_relu or elu");
    }
}

struct Precision {
    int digits;      // of the significand, in bits
    double quantum;  // smallest positive number
};
Precision precision_of(DType dtype) {
    switch (dtype) {
        case DType::kFloat64: return {53, 0x1p-1074};
        case DType::kFloat16: return {11, 0x1p-24};
        case DType::kBFloat16: return {8, 0x1p-133};
        default: return {24, 0x1p-149};
    }
}

// The gamma at which y has half the digits of (x - mean) / std. y = gamma * normalised + beta is rounded by
// 2^-digits * |beta|, or by the quantum divided by a slope below 1; divided by |gamma| that is what normalised loses,
// which has a size of 1.
SmallestGamma smallest_gamma(DType dtype, const NormOptions& options) {
    const Precision precision = precision_of(dtype);
    const double half = std::ldexp(1.0, precision.digits / 2);
    const bool leaky = options.activation == Activation::kLeakyRelu;
    const double quantum = precision.quantum / (leaky ? std::fmin(options.activation_slope, 1.0) : 1.0);
    return {1.0 / half, quantum * half};
}

}  // namespace

std::int64_t state_size(const Operation& operation, const TensorView& x, int axis) {
    axis = check_x(operation, x, axis);
    StateNumbers numbers;
    numbers.statistics = statistics_of(x, axis, operation.scope);
    numbers.parameters = x.shape[axis];
    return numbers.size();
}

Call begin_forward(const Operation& operation, const NormInputs& inputs, const NormOptions& options,
                   const TensorView& y, NormState& state) {
    const char* const name = operation.name;
    const TensorView& x = inputs.x;
    const int axis = check_x(operation, x, options.axis);
    check_options(name, options);
    const Backend& backend = check_device(name, x);
    check_channel_values(name, "gamma", inputs.gamma, x, axis);
    check_channel_values(name, "beta", inputs.beta, x, axis);
    if (inputs.residual) check_like(name, "residual", *inputs.residual, "x", x);
    if (inputs.where) check_where(name, *inputs.where, x, axis);
    check_like(name, "out", y, "x", x);
    const Memory out = memory_of(y);
    if (!same_memory(y, x)) check_disjoint(name, out, "x", x);
    check_output(name, out);
    check_disjoint(name, out, "residual", inputs.residual);
    check_disjoint(name, out, "where", inputs.where);
    check_disjoint(name, out, "gamma", inputs.gamma);
    check_disjoint(name, out, "beta", inputs.beta);
    describe(inputs, options, axis, operation.scope, state);
    Call call;
    call.backend = &backend;
    call.axis = axis;
    describe_problem(x, options, axis, operation.scope, state, call.problem);
    call.problem.y = y;
    call.problem.where = inputs.where;
    call.problem.epilogue.residual = inputs.residual;
    return call;
}

void fill_state(const Operation& operation, const ChannelInputs& channels, Call& call, const NormState& state) {
    check_room(operation, state);
    call.backend->set_channels(call.problem, channels);
}

void check_in_place(const Operation& operation, const NormInputs& inputs, Call& call, NormState& state) {
    if (!same_memory(*call.problem.y, inputs.x) || inputs.x.data == nullptr) return;
    check_invertible(operation.name, inputs, state.options);
    const SmallestGamma smallest = smallest_gamma(inputs.x.dtype, state.options);
    if (const auto small = call.backend->first_small_gamma(call.problem, smallest)) {
        fail(operation.name, "gamma is " + number_text(small->value) + " in channel " + std::to_string(small->channel) +
                                 ", expected at least " + number_text(small->least) +
                                 " in magnitude where out is x: backward divides by it");
    }
    state.in_place = true;
}

Call begin_backward(const Operation& operation, const NormBackwardInputs& inputs, const NormState& state) {
    const char* const name = operation.name;
    const TensorView& x = inputs.x;
    check_tensor(name, "x", x);
    bool same = x.ndim == state.ndim && x.dtype == state.dtype;
    for (int d = 0; same && d < x.ndim; ++d) same = x.shape[d] == state.shape[d];
    if (!same) {
        const std::string got = shape_text(x) + " and dtype " + dtype_name(x.dtype);
        const bool any = state.ndim > 0 && state.ndim <= kMaxDims;
        fail(name, "x has shape " + got + ", expected " +
                       (any ? shape_text(state.shape, state.ndim) + " and " + dtype_name(state.dtype) +
                                  " as the forward call that filled the state"
                            : std::string("a state that a forward call has filled")));
    }
    const int axis = check_x(operation, x, state.options.axis);
    const std::int64_t statistics = statistics_of(x, axis, operation.scope);
    if (state.statistics != statistics || state.parameters != x.shape[axis]) {
        fail(name, "state has " + std::to_string(state.statistics) + " statistics, expected " +
                       std::to_string(statistics) + ": it is another normalization's");
    }
    check_options(name, state.options);
    check_room(operation, state);
    const Backend& backend = check_device(name, x);
    check_like(name, "dy", inputs.dy, "x", x);
    const auto check_presence = [&](const char* argument, bool given, bool expected) {
        if (given == expected) return;
        fail(name, std::string(argument) + " is " + (given ? "there" : "absent") + ", expected it " +
                       (expected ? "there" : "absent") + " as in the forward call");
    };
    check_presence("residual", inputs.residual.has_value(), state.has_residual);
    check_presence("where", inputs.where.has_value(), state.has_where);
    if (inputs.residual) check_like(name, "residual", *inputs.residual, "x", x);
    if (inputs.where) check_where(name, *inputs.where, x, axis);
    Call call;
    call.backend = &backend;
    call.axis = axis;
    describe_problem(x, state.options, axis, operation.scope, state, call.problem);
    call.problem.dy = inputs.dy;
    call.problem.where = inputs.where;
    call.problem.epilogue.residual = inputs.residual;
    call.problem.from_output = state.in_place;
    call.problem.constant_statistics = state.constant_statistics;
    return call;
}

void add_gradients(const Operation& operation, const NormBackwardInputs& inputs, const NormGradients& gradients,
                   Call& call) {
    const char* const name = operation.name;
    const TensorView& x = inputs.x;
    check_like(name, "out", gradients.dx, "dy", x);
    const Memory out = memory_of(gradients.dx);
    if (!same_memory(gradients.dx, inputs.dy)) check_disjoint(name, out, "dy", inputs.dy);
    check_disjoint(name, out, "x", x);
    check_disjoint(name, out, "residual", inputs.residual);
    check_disjoint(name, out, "where", inputs.where);
    check_output(name, out);
    if (gradients.dresidual.has_value() != inputs.residual.has_value()) {
        fail(name, std::string("dresidual is ") + (gradients.dresidual ? "there" : "absent") + ", expected it " +
                       (inputs.residual ? "there, as" : "absent, as no") + " residual is");
    }
    if (gradients.dresidual) {
        check_like(name, "dresidual", *gradients.dresidual, "x", x);
        const Memory second = memory_of(*gradients.dresidual);
        if (overlaps_itself(second)) {
            fail(name, "dresidual has elements that share memory, expected memory of their own");
        }
        const auto check_apart = [&](const char* other, const std::optional<TensorView>& view) {
            if (!view || disjoint(second, memory_of(*view))) return;
            fail(name, std::string("dresidual overlaps ") + other + " in memory, expected memory of its own");
        };
        check_apart("out", gradients.dx);
        check_apart("dy", inputs.dy);
        check_apart("x", x);
        check_apart("residual", inputs.residual);
        check_apart("where", inputs.where);
    }
    if (call.problem.numbers.parameters > 0) {
        check_pointer(name, "dgamma", gradients.dgamma);
        check_pointer(name, "dbeta", gradients.dbeta);
    }
    call.problem.dx = gradients.dx;
    call.problem.dresidual = gradients.dresidual;
    call.problem.dgamma = gradients.dgamma;
    call.problem.dbeta = gradients.dbeta;
}

}  // namespace bnfast::api
