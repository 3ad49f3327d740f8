// Preconditions: each check throws ValueError or TypeError with one message form, operation, argument, got, expected.
#include "api/checks.h"

#include <cmath>
#include <cstdio>
#include <limits>

#include "problem/broadcast.h"

namespace bnfast::api {

std::string shape_text(const std::int64_t* shape, int ndim) {
    std::string text = "(";
    for (int d = 0; d < ndim; ++d) text += (d > 0 ? ", " : "") + std::to_string(shape[d]);
    return text + (ndim == 1 ? ",)" : ")");
}

const char* dtype_name(DType dtype) {
    switch (dtype) {
        case DType::kFloat32: return "float32";
        case DType::kFloat64: return "float64";
        case DType::kFloat16: return "float16";
        case DType::kBFloat16: return "bfloat16";
        case DType::kBool: return "bool";
    }
    return "unknown";
}

std::string device_text(const Device& device) {
    const std::string number = ":" + std::to_string(device.index);
    if (device.type == Device::Type::kCpu) return "cpu" + number;
    if (device.type == Device::Type::kCuda) return "cuda" + number;
    return "device type " + std::to_string(static_cast<int>(device.type)) + number;
}

std::string number_text(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.12g", value);
    return text;
}

void fail(const char* operation, const std::string& what) { throw ValueError(std::string(operation) + ": " + what); }

namespace {

bool is_dtype(DType dtype) { return dtype >= DType::kFloat32 && dtype <= DType::kBool; }

[[noreturn]] void fail_dtype(const char* operation, const char* name, DType got, const std::string& expected) {
    throw TypeError(std::string(operation) + ": " + name + " has dtype " + dtype_name(got) + ", expected " + expected);
}

}  // namespace

void check_memory(const char* operation, const char* name, const TensorView& view) {
    if (view.ndim < 0 || view.ndim > kMaxDims) {
        fail(operation, std::string(name) + " has " + std::to_string(view.ndim) + " dimensions, expected 0 .. " +
                            std::to_string(kMaxDims));
    }
    if (view.ndim > 0 && (view.shape == nullptr || view.strides == nullptr)) {
        fail(operation, std::string(name) + " has no shape or no strides, expected memory with " +
                            std::to_string(view.ndim) + " numbers each");
    }
    if (!is_dtype(view.dtype)) {
        throw TypeError(std::string(operation) + ": " + name + " has dtype number " +
                        std::to_string(static_cast<int>(view.dtype)) + ", expected one of DType");
    }
    bool empty = false, negative = false, huge = false, far = false;
    std::int64_t bytes = item_size(view.dtype), reach = 0;
    for (int d = 0; d < view.ndim; ++d) {
        const std::int64_t length = view.shape[d], stride = view.strides[d];
        empty |= length == 0;
        negative |= length < 0;
        huge |= __builtin_mul_overflow(bytes, length, &bytes);
        std::int64_t steps = 0;
        far |= stride == std::numeric_limits<std::int64_t>::min() ||
               __builtin_mul_overflow(stride < 0 ? -stride : stride, length - (length > 0), &steps) ||
               __builtin_add_overflow(reach, steps, &reach);
    }
    if (far && !empty) {
        fail(operation, std::string(name) + " has strides that reach beyond all memory");
    }
    if (negative || (huge && !empty)) {
        fail(operation, std::string(name) + " has shape " + shape_text(view) +
                            ", expected lengths >= 0 whose product can be memory");
    }
    if (view.data == nullptr && !empty) fail(operation, std::string(name) + " has no data, expected its memory");
}

namespace {

void check_same_device(const char* operation, const char* name, const TensorView& value, const char* like,
                       const TensorView& x) {
    if (value.device == x.device) return;
    fail(operation, std::string(name) + " is on " + device_text(value.device) + ", expected " + device_text(x.device) +
                        ", where " + like + " is");
}

}  // namespace

void check_tensor(const char* operation, const char* name, const TensorView& view) {
    check_memory(operation, name, view);
    if (view.dtype == DType::kBool) {
        fail_dtype(operation, name, view.dtype, "float32, float64, float16 or bfloat16");
    }
}

void check_numbers(const char* operation, const char* name, const TensorView& view) {
    check_memory(operation, name, view);
    if (view.dtype != DType::kFloat32 && view.dtype != DType::kFloat64) {
        fail_dtype(operation, name, view.dtype, "float32 or float64");
    }
}

void check_like(const char* operation, const char* name, const TensorView& value, const char* like,
                const TensorView& x) {
    check_memory(operation, name, value);
    if (value.dtype != x.dtype)
        fail_dtype(operation, name, value.dtype, std::string(dtype_name(x.dtype)) + " as " + like);
    bool same = value.ndim == x.ndim;
    for (int d = 0; same && d < x.ndim; ++d) same = value.shape[d] == x.shape[d];
    if (!same) {
        fail(operation,
             std::string(name) + " has shape " + shape_text(value) + ", expected " + shape_text(x) + " as " + like);
    }
    check_same_device(operation, name, value, like, x);
}

namespace {

// float32 or float64 numbers with the shape of `axes` axes of x from `first` on.
void check_values(const char* operation, const char* name, const TensorView& values, const TensorView& x, int first,
                  int axes) {
    check_numbers(operation, name, values);
    const std::int64_t* const expected = x.shape + first;
    bool same = values.ndim == axes;
    for (int d = 0; same && d < axes; ++d) same = values.shape[d] == expected[d];
    if (!same) {
        const std::string which =
            axes == 1 ? "axis " + std::to_string(first) : "the last " + std::to_string(axes) + " axes";
        fail(operation, std::string(name) + " has shape " + shape_text(values) + ", expected " +
                            shape_text(expected, axes) + " to match " + which + " of x with shape " + shape_text(x));
    }
    check_same_device(operation, name, values, "x", x);
}

}  // namespace

void check_channel_values(const char* operation, const char* name, const TensorView& values, const TensorView& x,
                          int axis) {
    check_values(operation, name, values, x, axis, 1);
}

void check_axes_values(const char* operation, const char* name, const TensorView& values, const TensorView& x,
                       int axis) {
    check_values(operation, name, values, x, axis, x.ndim - axis);
}

void check_where(const char* operation, const TensorView& where, const TensorView& x, int axis) {
    check_memory(operation, "where", where);
    if (where.dtype != DType::kBool) fail_dtype(operation, "where", where.dtype, "bool");
    std::int64_t strides[kMaxDims];
    if (!broadcast_strides(where, x, axis, strides)) {
        fail(operation, "where has shape " + shape_text(where) + ", expected one that broadcasts to x with shape " +
                            shape_text(x) + " with axis " + std::to_string(axis) + " removed or of length 1");
    }
    check_same_device(operation, "where", where, "x", x);
}

void check_pointer(const char* operation, const char* name, const void* pointer) {
    if (pointer == nullptr) fail(operation, std::string(name) + " is null, expected memory for its numbers");
}

const Backend& check_device(const char* operation, const char* name, const Device& device) {
    const Backend* const backend = backend_of(device.type);
    if (backend == nullptr) {
        fail(operation,
             std::string(name) + " is on " + device_text(device) + ", expected cpu: " + why_no_backend(device.type));
    }
    return *backend;
}

void check_output(const char* operation, const Memory& memory, const char* result) {
    if (!overlaps_itself(memory)) return;
    fail(operation, std::string(result) + " has elements that share memory, expected memory of their own");
}

void check_disjoint(const char* operation, const Memory& memory, const char* result, const char* other,
                    const Memory& others) {
    if (disjoint(memory, others)) return;
    fail(operation, std::string(result) + " overlaps " + other + " in memory, expected memory of its own");
}

void check_disjoint(const char* operation, const Memory& memory, const char* result, const char* other,
                    const TensorView& view) {
    check_disjoint(operation, memory, result, other, memory_of(view));
}

void check_disjoint(const char* operation, const Memory& memory, const char* result, const char* other,
                    const std::optional<TensorView>& view) {
    if (view) check_disjoint(operation, memory, result, other, *view);
}

int check_axis(const char* operation, const TensorView& x, int axis) {
    if (x.ndim < 1) fail(operation, "x has shape (), expected at least one dimension");
    const int from_front = axis < 0 ? axis + x.ndim : axis;
    if (from_front < 0 || from_front >= x.ndim) {
        fail(operation, "axis is " + std::to_string(axis) + ", expected one of " + std::to_string(-x.ndim) + " .. " +
                            std::to_string(x.ndim - 1) + " for x with shape " + shape_text(x));
    }
    return from_front;
}

void check_options(const char* operation, const NormOptions& options) {
    if (!(std::isfinite(options.eps) && options.eps >= 0)) {
        fail(operation, "eps is " + number_text(options.eps) + ", expected a finite number >= 0");
    }
    if (!std::isfinite(options.activation_slope)) {
        fail(operation, "activation_slope is " + number_text(options.activation_slope) + ", expected a finite number");
    }
    if (options.activation < Activation::kNone || options.activation > Activation::kElu) {
        fail(operation, "activation is number " + std::to_string(static_cast<int>(options.activation)) +
                            ", expected one of Activation");
    }
    if (options.eps_placement != EpsPlacement::kVar && options.eps_placement != EpsPlacement::kStd) {
        fail(operation, "eps_placement is number " + std::to_string(static_cast<int>(options.eps_placement)) +
                            ", expected one of EpsPlacement");
    }
    check_rate(operation, "dropout", options.dropout);
}

void check_rate(const char* operation, const char* name, double rate) {
    if (!(rate >= 0 && rate <= 1))
        fail(operation, std::string(name) + " is " + number_text(rate) + ", expected a number in [0, 1]");
}

}  // namespace bnfast::api
