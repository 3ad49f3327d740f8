// What the front desks of all normalizations share: checks of a forward and of a backward call, and the
// NormProblem that they pass to the backend.
#include "api/norm.h"

#include <algorithm>
#include <cmath>

#include "bnfast/layout.h"
#include "numerics/mask.h"

namespace bnfast::api {
namespace {

int check_x(const Operation& operation, const TensorView& x, int axis) {
    check_tensor(operation.name, "x", x);
    const int from_front = check_axis(operation.name, x, axis);
    if (operation.scope == Scope::kGroup && from_front == 0) {
        fail(operation.name, "axis is " + std::to_string(axis) + ", expected another than that of the samples, 0");
    }
    if (operation.groups != 0 && (operation.groups < 0 || x.shape[from_front] % operation.groups != 0)) {
        fail(operation.name, "num_groups is " + std::to_string(operation.groups) + ", expected a divisor of the " +
                                 std::to_string(x.shape[from_front]) + " channels on axis " +
                                 std::to_string(from_front) + " of x with shape " + shape_text(x));
    }
    return from_front;
}

// gamma or beta of x: an entry for each channel, or for each element of the normalised axes.
void check_parameter(const Operation& operation, const char* name, const std::optional<TensorView>& values,
                     const TensorView& x, int axis) {
    if (!values) return;
    if (operation.scope == Scope::kLastAxes) {
        check_axes_values(operation.name, name, *values, x, axis);
    } else {
        check_channel_values(operation.name, name, *values, x, axis);
    }
}

// How many statistics and parameters a call on x has, without memory for them.
StateNumbers numbers_of(const Operation& operation, const TensorView& x, int axis) {
    StateNumbers numbers;
    numbers.parameters = numbers.statistics = x.shape[axis];
    bool too_many = false;
    if (operation.scope == Scope::kGroup) {
        const std::int64_t groups = operation.groups > 0 ? operation.groups : numbers.parameters;
        too_many = __builtin_mul_overflow(groups, x.shape[0], &numbers.statistics);
    } else if (operation.scope == Scope::kLastAxes) {
        numbers.parameters = numbers.statistics = 1;
        for (int d = 0; d < x.ndim; ++d) {
            std::int64_t& count = d < axis ? numbers.statistics : numbers.parameters;
            too_many = __builtin_mul_overflow(count, x.shape[d], &count) || too_many;
        }
    }
    std::int64_t size;
    if (too_many || __builtin_add_overflow(numbers.statistics, numbers.parameters, &size) ||
        __builtin_mul_overflow(size, std::int64_t{8 * sizeof(double)}, &size)) {
        fail(operation.name, "x has shape " + shape_text(x) + ", expected one whose statistics can be memory");
    }
    return numbers;
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
void describe(const Operation& operation, const NormInputs& inputs, const NormOptions& options, int axis,
              NormState& state) {
    const TensorView& x = inputs.x;
    static_cast<StateNumbers&>(state) = numbers_of(operation, x, axis);
    state.options = options;
    state.options.axis = axis;
    state.scope = operation.scope;
    state.centre = operation.centre;
    state.groups = operation.groups;
    state.device = x.device;
    state.dtype = x.dtype;
    state.ndim = x.ndim;
    std::copy_n(x.shape, x.ndim, state.shape);
    state.has_gamma = inputs.gamma.has_value();
    state.has_beta = inputs.beta.has_value();
    state.has_residual = inputs.residual.has_value();
    state.has_where = inputs.where.has_value();
}

void describe_problem(const Operation& operation, const TensorView& x, const NormOptions& options, int axis,
                      const NormState& state, NormProblem& problem) {
    problem.x = x;
    problem.layout = memory_layout(x, {operation.scope, axis, operation.groups});
    problem.centre = operation.centre;
    problem.eps = options.eps;
    problem.eps_placement = options.eps_placement;
    problem.epilogue.activation = options.activation;
    problem.epilogue.activation_slope = options.activation_slope;
    const DropoutMask mask = numerics::mask_of(options.dropout, options.seed, options.offset);
    (operation.has_prologue() ? problem.prologue.dropout : problem.epilogue.dropout) = mask;
    (operation.has_prologue() ? problem.prologue.dropout_scale : problem.epilogue.dropout_scale) =
        mask.keep == kKeepAll ? 1.0 : numerics::dropout_scale(options.dropout);
    problem.numbers = state.numbers();
}

// What lets x be computed from y: ValueError for other activations, and for residual, dropout or where.
template <class Inputs>  // of forward, or of backward with the options of a state, which anyone may have written
void check_invertible(const char* operation, const Inputs& inputs, const NormOptions& options) {
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
    return numbers_of(operation, x, check_x(operation, x, axis)).size();
}

Call begin_forward(const Operation& operation, const NormInputs& inputs, const NormOptions& options,
                   const TensorView& y) {
    const char* const name = operation.name;
    const TensorView& x = inputs.x;
    const int axis = check_x(operation, x, options.axis);
    check_options(name, options);
    const Backend& backend = check_device(name, "x", x.device);
    check_parameter(operation, "gamma", inputs.gamma, x, axis);
    check_parameter(operation, "beta", inputs.beta, x, axis);
    if (inputs.residual) check_like(name, "residual", *inputs.residual, "x", x);
    if (inputs.where) check_where(name, *inputs.where, x, axis);
    check_like(name, "out", y, "x", x);
    const Memory out = memory_of(y);
    if (!same_memory(y, x)) check_disjoint(name, out, "out", "x", x);
    check_output(name, out, "out");
    check_disjoint(name, out, "out", "residual", inputs.residual);
    check_disjoint(name, out, "out", "where", inputs.where);
    check_disjoint(name, out, "out", "gamma", inputs.gamma);
    check_disjoint(name, out, "out", "beta", inputs.beta);
    Call call;
    call.backend = &backend;
    call.axis = axis;
    describe(operation, inputs, options, axis, call.state);
    describe_problem(operation, x, options, axis, call.state, call.problem);
    call.problem.y = y;
    call.problem.where = inputs.where;
    (operation.has_prologue() ? call.problem.prologue.residual : call.problem.epilogue.residual) = inputs.residual;
    call.problem.prologue.used = operation.has_prologue() && (inputs.residual || options.dropout > 0);
    return call;
}

void add_h(const Operation& operation, const NormInputs& inputs, const TensorView& y,
           const std::optional<TensorView>& h, Call& call) {
    const char* const name = operation.name;
    if (h.has_value() != call.problem.prologue.used) {
        fail(name, std::string("h is ") + (h ? "there" : "absent") + ", expected it " +
                       (h ? "absent, as there is neither residual nor dropout" : "there, with residual or dropout"));
    }
    if (same_memory(y, inputs.x) && elements_of(inputs.x) > 0) {
        fail(name, "out is x (y overwrites what backward needs), expected other memory");
    }
    if (!h) return;
    check_like(name, "h", *h, "x", inputs.x);
    const Memory memory = memory_of(*h);
    check_output(name, memory, "h");
    check_disjoint(name, memory, "h", "x", inputs.x);
    check_disjoint(name, memory, "h", "residual", inputs.residual);
    check_disjoint(name, memory, "h", "gamma", inputs.gamma);
    check_disjoint(name, memory, "h", "beta", inputs.beta);
    check_disjoint(name, memory, "h", "out", y);
    call.problem.h = h;
}

void finish_checks(const Operation& operation, const NormInputs& inputs, const TensorView& y,
                   const ChannelInputs& channels, Call& call, NormState& state) {
    call.state.values = state.values;
    call.state.capacity = state.capacity;
    check_room(operation, call.state);
    const Memory numbers = memory_of(call.state.values, call.state.size());
    check_disjoint(operation.name, memory_of(y), "out", "state.values", numbers);
    if (call.problem.h) check_disjoint(operation.name, memory_of(*call.problem.h), "h", "state.values", numbers);
    if (same_memory(y, inputs.x) && elements_of(inputs.x) > 0) {
        check_invertible(operation.name, inputs, call.state.options);
        const SmallestGamma smallest = smallest_gamma(inputs.x.dtype, call.state.options);
        if (const auto small = call.backend->first_small_gamma(channels, call.state.parameters, smallest)) {
            fail(operation.name, "gamma is " + number_text(small->value) + " in channel " +
                                     std::to_string(small->channel) + ", expected at least " +
                                     number_text(small->least) +
                                     " in magnitude where out is x: backward divides by it");
        }
        call.state.in_place = true;
    }
    state = call.state;
    call.problem.numbers = call.state.numbers();
    call.backend->set_channels(call.problem, channels);
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
    const StateNumbers numbers = numbers_of(operation, x, axis);
    if (state.scope != operation.scope || state.statistics != numbers.statistics ||
        state.parameters != numbers.parameters) {
        fail(name, "state has " + std::to_string(state.statistics) + " statistics, expected " +
                       std::to_string(numbers.statistics) + ": it is another normalization's");
    }
    check_options(name, state.options);
    check_room(operation, state);
    const Backend& backend = check_device(name, "x", x.device);
    if (x.device != state.device) {
        fail(name, "x is on " + device_text(x.device) + ", expected " + device_text(state.device) +
                       " as in the forward call");
    }
    check_like(name, "dy", inputs.dy, "x", x);
    const auto check_presence = [&](const char* argument, bool given, bool expected) {
        if (given == expected) return;
        fail(name, std::string(argument) + " is " + (given ? "there" : "absent") + ", expected it " +
                       (expected ? "there" : "absent") + " as in the forward call");
    };
    if (operation.has_prologue()) {
        if (inputs.residual) fail(name, "residual is there, expected it absent: it is in h, which x is");
        if (inputs.dh) check_like(name, "dh", *inputs.dh, "x", x);
    } else {
        check_presence("residual", inputs.residual.has_value(), state.has_residual);
        if (inputs.dh) fail(name, "dh is given, expected none: group and instance norm have no h");
    }
    check_presence("where", inputs.where.has_value(), state.has_where);
    if (inputs.residual) check_like(name, "residual", *inputs.residual, "x", x);
    if (inputs.where) check_where(name, *inputs.where, x, axis);
    if (state.in_place) {
        if (operation.has_prologue()) fail(name, "state says that out was x, which layer and RMS norm refuse");
        check_invertible(name, inputs, state.options);
    }
    Call call;
    call.backend = &backend;
    call.axis = axis;
    describe_problem(operation, x, state.options, axis, state, call.problem);
    call.problem.dy = inputs.dy;
    call.problem.dh = inputs.dh;
    call.problem.where = inputs.where;
    call.problem.epilogue.residual = inputs.residual;
    call.problem.prologue.used = operation.has_prologue() && state.options.dropout > 0;
    call.has_residual = state.has_residual;
    call.problem.from_output = state.in_place;
    call.problem.constant_statistics = state.constant_statistics;
    return call;
}

void add_gradients(const Operation& operation, const NormBackwardInputs& inputs, const NormGradients& gradients,
                   Call& call) {
    const char* const name = operation.name;
    const TensorView& x = inputs.x;
    check_like(name, "out", gradients.dx, "dy", x);
    // Before the norm, without dropout, dx is the residual's gradient, too.
    const bool wanted = call.has_residual && (!operation.has_prologue() || call.problem.prologue.used);
    if (gradients.dresidual.has_value() != wanted) {
        fail(name, std::string("dresidual is ") + (gradients.dresidual ? "there" : "absent") + ", expected it " +
                       (wanted              ? "there, as residual is"
                        : call.has_residual ? "absent: it is dx"
                                            : "absent, as no residual is"));
    }
    const std::int64_t parameters = call.problem.numbers.parameters;
    if (parameters > 0) {
        check_pointer(name, "dgamma", gradients.dgamma);
        check_pointer(name, "dbeta", gradients.dbeta);
    }
    const Memory dgamma = memory_of(gradients.dgamma, parameters), dbeta = memory_of(gradients.dbeta, parameters);
    const Memory numbers = memory_of(call.problem.numbers.values, call.problem.numbers.size());
    check_disjoint(name, dgamma, "dgamma", "dbeta", dbeta);
    check_disjoint(name, dgamma, "dgamma", "state.values", numbers);
    check_disjoint(name, dbeta, "dbeta", "state.values", numbers);
    const auto check_result = [&](const char* result, const TensorView& view, bool may_be_dy) {
        const Memory memory = memory_of(view);
        check_output(name, memory, result);
        if (!may_be_dy || !same_memory(view, inputs.dy)) check_disjoint(name, memory, result, "dy", inputs.dy);
        check_disjoint(name, memory, result, "x", x);
        check_disjoint(name, memory, result, "residual", inputs.residual);
        check_disjoint(name, memory, result, "where", inputs.where);
        check_disjoint(name, memory, result, "dh", inputs.dh);
        check_disjoint(name, memory, result, "dgamma", dgamma);
        check_disjoint(name, memory, result, "dbeta", dbeta);
        check_disjoint(name, memory, result, "state.values", numbers);
    };
    check_result("out", gradients.dx, true);
    if (gradients.dresidual) {
        check_like(name, "dresidual", *gradients.dresidual, "x", x);
        check_result("dresidual", *gradients.dresidual, false);
        check_disjoint(name, memory_of(*gradients.dresidual), "dresidual", "out", gradients.dx);
    }
    call.problem.dx = gradients.dx;
    call.problem.dresidual = gradients.dresidual;
    call.problem.dgamma = gradients.dgamma;
    call.problem.dbeta = gradients.dbeta;
}

}  // namespace bnfast::api
