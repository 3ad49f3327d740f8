// Preconditions: each check throws ValueError or TypeError with one message form, operation, argument, got, expected.
#include "api/checks.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "api/geometry.h"
#include "api/memory.h"

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
    }
    return "unknown";
}

std::string number_text(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.12g", value);
    return text;
}

void fail(const char* operation, const std::string& what) { throw ValueError(std::string(operation) + ": " + what); }

int check_axis(const char* operation, const TensorView& x, int axis) {
    if (x.ndim < 1) fail(operation, "x has shape (), expected at least one dimension");
    const int from_front = axis < 0 ? axis + x.ndim : axis;
    if (from_front < 0 || from_front >= x.ndim) {
        fail(operation, "axis is " + std::to_string(axis) + ", expected one of " + std::to_string(-x.ndim) + " .. " +
                            std::to_string(x.ndim - 1) + " for x with shape " + shape_text(x));
    }
    return from_front;
}

void check_options(const char* operation, const BatchNormOptions& options) {
    if (!(std::isfinite(options.eps) && options.eps >= 0)) {
        fail(operation, "eps is " + number_text(options.eps) + ", expected a finite number >= 0");
    }
    if (!std::isfinite(options.activation_slope)) {
        fail(operation, "activation_slope is " + number_text(options.activation_slope) + ", expected a finite number");
    }
}

void check_channel_values(const char* operation, const char* name, const TensorView& values, const TensorView& x,
                          int axis) {
    if (values.data == nullptr) return;
    if (values.dtype != DType::kFloat32 && values.dtype != DType::kFloat64) {
        throw TypeError(std::string(operation) + ": " + name + " has dtype " + dtype_name(values.dtype) +
                        ", expected float32 or float64");
    }
    if (values.ndim != 1 || values.shape[0] != x.shape[axis]) {
        const std::int64_t expected[] = {x.shape[axis]};
        fail(operation, std::string(name) + " has shape " + shape_text(values) + ", expected " +
                            shape_text(expected, 1) + " to match axis " + std::to_string(axis) + " of x with shape " +
                            shape_text(x));
    }
}

void check_like(const char* operation, const char* name, const TensorView& value, const char* like,
                const TensorView& x) {
    if (value.data == nullptr) return;
    if (value.dtype != x.dtype) {
        throw TypeError(std::string(operation) + ": " + name + " has dtype " + dtype_name(value.dtype) + ", expected " +
                        dtype_name(x.dtype) + " as " + like);
    }
    bool same = value.ndim == x.ndim;
    for (int d = 0; same && d < x.ndim; ++d) same = value.shape[d] == x.shape[d];
    if (!same)
        fail(operation,
             std::string(name) + " has shape " + shape_text(value) + ", expected " + shape_text(x) + " as " + like);
}

void check_where(const char* operation, const WhereView& where, const TensorView& x, int axis) {
    if (where.data == nullptr || where_fits(where, x, axis)) return;
    fail(operation, "where has shape " + shape_text(where.shape, where.ndim) +
                        ", expected one that broadcasts to x with shape " + shape_text(x) + " with axis " +
                        std::to_string(axis) + " removed or of length 1");
}

void check_invertible(const char* operation, const BatchNormInputs& inputs, const BatchNormOptions& options) {
    const std::string in_place = "out is x (y overwrites what backward needs), expected ";
    if (inputs.residual.data != nullptr) fail(operation, in_place + "no residual");
    if (inputs.where.data != nullptr) fail(operation, in_place + "no where");
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

namespace {

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

}  // namespace

void check_invertible_scale(const char* operation, DType dtype, const BatchNormOptions& options, const double* gamma,
                            const double* beta, std::int64_t channels) {
    // y = gamma * normalised + beta is rounded by 2^-digits * |beta|, or by the quantum divided by a slope below 1;
    // divided by |gamma| that is what normalised loses, which has a size of 1.
    const Precision precision = precision_of(dtype);
    const double half = std::ldexp(1.0, precision.digits / 2);
    const bool leaky = options.activation == Activation::kLeakyRelu;
    const double quantum = precision.quantum / (leaky ? std::fmin(options.activation_slope, 1.0) : 1.0);
    for (std::int64_t c = 0; c < channels; ++c) {
        const double smallest = std::fmax(std::fabs(beta[c]) / half, quantum * half);
        if (std::fabs(gamma[c]) >= smallest) continue;
        fail(operation, "gamma is " + number_text(gamma[c]) + " in channel " + std::to_string(c) +
                            ", expected at least " + number_text(smallest) +
                            " in magnitude where out is x: backward divides by it");
    }
}

void check_rate(const char* operation, const char* name, double rate) {
    if (!(rate >= 0 && rate <= 1))
        fail(operation, std::string(name) + " is " + number_text(rate) + ", expected a number in [0, 1]");
}

void check_output(const char* operation, const Memory& out) {
    if (overlaps_itself(out)) fail(operation, "out has elements that share memory, expected memory of their own");
}

void check_disjoint(const char* operation, const Memory& out, const WhereView& where) {
    if (where.data != nullptr && !disjoint(out, memory_of(where))) {
        fail(operation, "out overlaps where in memory, expected memory of its own");
    }
}

void check_disjoint(const char* operation, const Memory& out, const char* name, const TensorView& input) {
    if (input.data != nullptr && !disjoint(out, memory_of(input))) {
        fail(operation, std::string("out overlaps ") + name + " in memory, expected memory of its own");
    }
}

namespace {

template <class T>
T channel_value(const char* source, std::int64_t stride, std::int64_t channel) {
    T value;
    std::memcpy(&value, source + channel * stride, sizeof value);
    return value;
}

template <class T>
void check_not_negative(const char* operation, const char* name, const char* source, std::int64_t stride,
                        std::int64_t channels) {
    bool negative = false;
    for (std::int64_t c = 0; c < channels; ++c) negative |= channel_value<T>(source, stride, c) < 0;
    for (std::int64_t c = 0; negative && c < channels; ++c) {
        const T value = channel_value<T>(source, stride, c);
        if (value < 0) {
            fail(operation, std::string(name) + " is " + number_text(static_cast<double>(value)) + " in channel " +
                                std::to_string(c) + ", expected numbers >= 0");
        }
    }
}

}  // namespace

void check_not_negative(const char* operation, const char* name, const TensorView& values) {
    const char* const source = static_cast<const char*>(values.data);
    const std::int64_t stride = values.strides[0], channels = values.shape[0];
    if (values.dtype == DType::kFloat64) {
        check_not_negative<double>(operation, name, source, stride, channels);
    } else if (stride == sizeof(float)) {
        check_not_negative<float>(operation, name, source, sizeof(float), channels);  // a loop of vectors
    } else {
        check_not_negative<float>(operation, name, source, stride, channels);
    }
}

}  // namespace bnfast::api
