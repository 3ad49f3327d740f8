// The front desk of dropout: checks, geometry, the numbers of each mode.
#include "bnfast/dropout.h"

#include <algorithm>

#include "api/checks.h"
#include "api/geometry.h"
#include "api/memory.h"
#include "cpu/arithmetic.h"
#include "cpu/dropout.h"
#include "numerics/mask.h"

namespace bnfast {

namespace {

using api::OrderedTensor;

// Whether each dimension is broadcast in the mask.
std::vector<bool> check_broadcast_axes(const char* operation, const std::vector<int>& axes, int ndim) {
    std::vector<bool> broadcast(static_cast<std::size_t>(ndim), false);
    for (const int axis : axes) {
        const int from_front = axis < 0 ? axis + ndim : axis;
        if (from_front < 0 || from_front >= ndim || broadcast[static_cast<std::size_t>(from_front)]) {
            api::fail(operation, "broadcast_axes has " + std::to_string(axis) + ", expected distinct axes of x with " +
                                     std::to_string(ndim) + " dimensions");
        }
        broadcast[static_cast<std::size_t>(from_front)] = true;
    }
    return broadcast;
}

// Elements in C order, as runs of the trailing dimensions, which are all broadcast or all not; the dimensions before
// them number the runs.
struct Runs {
    api::LayoutOrder order;
    bool constant = false;
    std::vector<std::int64_t> prefix_shape, prefix_strides;
    std::int64_t length = 1;
};

Runs cut_runs(const TensorView& x, const std::vector<bool>& broadcast) {
    Runs runs;
    const auto is_broadcast = [&](int d) { return static_cast<bool>(broadcast[static_cast<std::size_t>(d)]); };
    int begin = x.ndim;
    bool any = false;
    while (begin > 1) {
        const int d = begin - 1;
        if (x.shape[d] != 1) {
            if (any && is_broadcast(d) != runs.constant) break;
            runs.constant = is_broadcast(d);
            any = true;
        }
        --begin;
    }
    if (!any) runs.constant = is_broadcast(0);
    for (int d = begin; d < x.ndim; ++d) runs.length *= x.shape[d];
    std::int64_t mask_stride = runs.constant ? 1 : runs.length;
    for (int d = begin - 1; d >= 0; --d) {
        runs.prefix_shape.insert(runs.prefix_shape.begin(), x.shape[d]);
        runs.prefix_strides.insert(runs.prefix_strides.begin(), is_broadcast(d) ? 0 : mask_stride);
        if (!is_broadcast(d)) mask_stride *= x.shape[d];
    }
    api::LayoutOrder& order = runs.order;
    order.channel_axis = begin - 1;
    for (int d = 0; d < begin - 1; ++d) order.outer_dims.push_back(d);
    for (int d = begin; d < x.ndim; ++d) order.inner_dims.push_back(d);
    order.geometry.outer = 1;
    for (const int d : order.outer_dims) order.geometry.outer *= x.shape[d];
    order.geometry.channels = x.shape[begin - 1];
    order.geometry.inner = runs.length;
    if (x.ndim == 1) {  // one run, not a run an element
        order.geometry.rows = true;
        runs.length = x.shape[0];
        runs.prefix_shape.clear();
        runs.prefix_strides.clear();
    }
    return runs;
}

TensorView at_least_1d(TensorView view) {
    if (view.ndim == 0) {
        view.ndim = 1;
        view.shape[0] = 1;
        view.strides[0] = item_size(view.dtype);
    }
    return view;
}

// The runs of a problem whose elements are one dense block of mask elements in order become a single run.
void merge_runs(cpu::DropoutProblem& problem) {
    const cpu::Geometry g = problem.geometry;
    const auto dense = [&](const cpu::Operand& operand) {
        return (g.channels == 1 || operand.channel_stride == g.inner) &&
               (g.outer == 1 || operand.outer_stride == g.channels * g.inner);
    };
    std::int64_t stride = problem.constant_runs ? -1 : g.inner;
    bool in_order = stride > 0;
    for (std::size_t d = problem.prefix_shape.size(); in_order && d-- > 0;) {
        in_order = problem.prefix_shape[d] == 1 || problem.prefix_strides[d] == stride;
        stride *= problem.prefix_shape[d];
    }
    if (!in_order || !dense(problem.x) || !dense(problem.y)) return;
    problem.geometry = {1, 1, g.outer * g.channels * g.inner, false};
    problem.prefix_shape.clear();
    problem.prefix_strides.clear();
}

void run(const char* operation, const TensorView& x_view, const TensorView& y_view, const std::vector<int>& axes,
         cpu::DropoutProblem& problem) {
    const cpu::StandardArithmetic arithmetic;
    const TensorView x = at_least_1d(x_view), y = at_least_1d(y_view);
    api::check_like(operation, "out", y, "x", x);
    const api::Memory out = api::memory_of(y);
    api::check_output(operation, out);
    if (!api::same_memory(x, y)) api::check_disjoint(operation, out, "x", x);
    const Runs runs = cut_runs(x, check_broadcast_axes(operation, axes, x.ndim));
    OrderedTensor input, output;
    input.bind(x, runs.order, OrderedTensor::Use::kRead);
    output.bind(y, runs.order, OrderedTensor::Use::kWrite);
    problem.dtype = x.dtype;
    problem.geometry = runs.order.geometry;
    problem.x = input.operand();
    problem.y = output.operand();
    problem.constant_runs = runs.constant;
    problem.prefix_shape = runs.prefix_shape;
    problem.prefix_strides = runs.prefix_strides;
    merge_runs(problem);
    cpu::dropout(problem);
    output.finish();
}

}  // namespace

void dropout(const char* operation, const TensorView& x, const DropoutOptions& options, bool backward,
             const TensorView& y) {
    api::check_rate(operation, "rate", options.rate);
    cpu::DropoutProblem problem;
    problem.bits = numerics::dropout_bits(options.rate, options.seed, options.offset);
    if (options.mode == DropoutMode::kInverted) {
        problem.scale = numerics::dropout_scale(options.rate);
    } else if (options.mode == DropoutMode::kAlpha) {
        const numerics::AlphaDropout alpha = numerics::alpha_dropout(options.rate);
        problem.scale = alpha.scale;
        if (!backward) {
            problem.shift = alpha.shift;
            problem.dropped = alpha.dropped;
        }
    }
    run(operation, x, y, options.broadcast_axes, problem);
}

void scale(const char* operation, const TensorView& x, double factor, const TensorView& y) {
    cpu::DropoutProblem problem;
    problem.bits.keep = kKeepAll;
    problem.scale = factor;
    run(operation, x, y, {}, problem);
}

void dropout_mask(const std::vector<std::int64_t>& shape, const DropoutOptions& options, std::uint8_t* mask) {
    const char* const operation = "dropout_mask";
    api::check_rate(operation, "rate", options.rate);
    TensorView view;
    view.ndim = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), view.shape);
    view = at_least_1d(view);
    const Runs runs = cut_runs(view, check_broadcast_axes(operation, options.broadcast_axes, view.ndim));
    cpu::DropoutProblem problem;
    problem.bits = numerics::dropout_bits(options.rate, options.seed, options.offset);
    problem.constant_runs = runs.constant;
    problem.prefix_shape = runs.prefix_shape;
    problem.prefix_strides = runs.prefix_strides;
    cpu::expand_mask(problem, runs.length, mask);
}

}  // namespace bnfast
