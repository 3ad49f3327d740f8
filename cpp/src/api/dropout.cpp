// The front desk of dropout: checks, which part of the mask belongs to which elements, and what each mode scales by.
#include "bnfast/dropout.h"

#include <vector>

#include "api/checks.h"
#include "numerics/mask.h"
#include "problem/backend.h"

namespace bnfast {
namespace {

void check_mode(const char* operation, DropoutMode mode) {
    if (mode >= DropoutMode::kInverted && mode <= DropoutMode::kAlpha) return;
    api::fail(operation, "mode is number " + std::to_string(static_cast<int>(mode)) + ", expected one of DropoutMode");
}

// What the arguments of a call are named, as messages have them.
struct Names {
    const char *operation, *input;
};

// Whether each dimension is broadcast in the mask.
std::vector<bool> check_broadcast_axes(const Names& names, const std::vector<int>& axes, int ndim) {
    std::vector<bool> broadcast(static_cast<std::size_t>(ndim), false);
    for (const int axis : axes) {
        const int from_front = axis < 0 ? axis + ndim : axis;
        if (from_front < 0 || from_front >= ndim || broadcast[static_cast<std::size_t>(from_front)]) {
            api::fail(names.operation, "broadcast_axes has " + std::to_string(axis) + ", expected distinct axes of " +
                                           names.input + " with " + std::to_string(ndim) + " dimensions");
        }
        broadcast[static_cast<std::size_t>(from_front)] = true;
    }
    return broadcast;
}

void check_mask_options(const char* operation, const DropoutOptions& options) {
    api::check_rate(operation, "rate", options.rate);
    check_mode(operation, options.mode);
}

constexpr std::int64_t kOne = 1;

// A number as a vector of one.
TensorView at_least_1d(TensorView view) {
    if (view.ndim == 0) {
        view.ndim = 1;
        view.shape = view.strides = &kOne;  // a stride along one element is never used
    }
    return view;
}

// Applies the problem's scale and mask to the elements of x.
void run(const Names& names, const TensorView& x_view, const TensorView& y_view, const std::vector<int>& axes,
         DropoutProblem& problem) {
    const char* const operation = names.operation;
    api::check_tensor(operation, names.input, x_view);
    api::check_like(operation, "out", y_view, names.input, x_view);
    const Backend& backend = api::check_device(operation, names.input, x_view.device);
    problem.x = at_least_1d(x_view);
    problem.y = at_least_1d(y_view);
    const api::Memory out = api::memory_of(problem.y);
    api::check_output(operation, out, "out");
    if (!api::same_memory(problem.x, problem.y)) api::check_disjoint(operation, out, "out", names.input, problem.x);
    problem.runs = mask_runs(problem.x.shape, problem.x.ndim, check_broadcast_axes(names, axes, problem.x.ndim));
    backend.dropout(problem);
}

// The expectation is linear in x: it is its own derivative.
void run_inference(const Names& names, const TensorView& x, double rate, DropoutMode mode, const TensorView& y) {
    api::check_rate(names.operation, "rate", rate);
    check_mode(names.operation, mode);
    DropoutProblem problem;
    problem.mask.keep = kKeepAll;
    if (mode == DropoutMode::kClassic) problem.scale = 1.0 - rate;
    run(names, x, y, {}, problem);
}

}  // namespace

void dropout(const TensorView& x, const DropoutOptions& options, const TensorView& y) {
    const Names names{"dropout", "x"};
    check_mask_options(names.operation, options);
    DropoutProblem problem;
    problem.mask = numerics::mask_of(options.rate, options.seed, options.offset);
    if (options.mode == DropoutMode::kInverted) {
        problem.scale = numerics::dropout_scale(options.rate);
    } else if (options.mode == DropoutMode::kAlpha) {
        const numerics::AlphaDropout alpha = numerics::alpha_dropout(options.rate);
        problem.scale = alpha.scale;
        problem.shift = alpha.shift;
        problem.dropped = alpha.dropped;
    }
    run(names, x, y, options.broadcast_axes, problem);
}

void dropout_backward(const TensorView& dy, const DropoutOptions& options, const TensorView& dx) {
    const Names names{"dropout_backward", "dy"};
    check_mask_options(names.operation, options);
    DropoutProblem problem;
    problem.mask = numerics::mask_of(options.rate, options.seed, options.offset);
    if (options.mode == DropoutMode::kInverted) problem.scale = numerics::dropout_scale(options.rate);
    if (options.mode == DropoutMode::kAlpha) problem.scale = numerics::alpha_dropout(options.rate).scale;
    run(names, dy, dx, options.broadcast_axes, problem);
}

void dropout_inference(const TensorView& x, double rate, DropoutMode mode, const TensorView& y) {
    run_inference({"dropout_inference", "x"}, x, rate, mode, y);
}

void dropout_inference_backward(const TensorView& dy, double rate, DropoutMode mode, const TensorView& dx) {
    run_inference({"dropout_inference_backward", "dy"}, dy, rate, mode, dx);
}

void dropout_mask(const std::vector<std::int64_t>& shape, const DropoutOptions& options, std::uint8_t* mask) {
    const char* const operation = "dropout_mask";
    check_mask_options(operation, options);
    const std::vector<std::int64_t> lengths = shape.empty() ? std::vector<std::int64_t>{1} : shape;
    const int ndim = static_cast<int>(lengths.size());
    TensorView described;  // of bytes, as the mask is
    const std::vector<std::int64_t> strides(lengths.size());
    described.data = mask;
    described.shape = lengths.data();
    described.strides = strides.data();
    described.ndim = ndim;
    described.dtype = DType::kBool;
    api::check_memory(operation, "mask", described);
    const MaskRuns runs =
        mask_runs(lengths.data(), ndim, check_broadcast_axes({operation, "a mask"}, options.broadcast_axes, ndim));
    api::check_device(operation, "mask", described.device)
        .dropout_mask(numerics::mask_of(options.rate, options.seed, options.offset), runs, mask);
}

}  // namespace bnfast
