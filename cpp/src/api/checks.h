// Preconditions: each check throws ValueError or TypeError with one message form, operation, argument, got, expected.
// Names are plain text: to make strings of them would take longer than a small batch norm.
#pragma once

#include <string>

#include "api/memory.h"
#include "bnfast/batch_norm.h"
#include "bnfast/error.h"

namespace bnfast::api {

std::string shape_text(const std::int64_t* shape, int ndim);
inline std::string shape_text(const TensorView& view) { return shape_text(view.shape, view.ndim); }
const char* dtype_name(DType dtype);
std::string number_text(double value);

[[noreturn]] void fail(const char* operation, const std::string& what);

// The axis counted from the front; ValueError where x has no such axis.
int check_axis(const char* operation, const TensorView& x, int axis);
void check_options(const char* operation, const BatchNormOptions& options);
// One float32 or float64 entry for each channel; absent is allowed.
void check_channel_values(const char* operation, const char* name, const TensorView& values, const TensorView& x,
                          int axis);
void check_like(const char* operation, const char* name, const TensorView& value, const char* like,
                const TensorView& x);
void check_where(const char* operation, const WhereView& where, const TensorView& x, int axis);
// What lets batch norm compute x from y: ValueError for other activations, and for residual, dropout or where.
void check_invertible(const char* operation, const BatchNormInputs& inputs, const BatchNormOptions& options);
// ValueError, naming the channel, where gamma is so small that y has less than half the digits of (x - mean) / std.
void check_invertible_scale(const char* operation, DType dtype, const BatchNormOptions& options, const double* gamma,
                            const double* beta, std::int64_t channels);
void check_rate(const char* operation, const char* name, double rate);
// ValueError where two elements of an output share memory.
void check_output(const char* operation, const Memory& out);
void check_disjoint(const char* operation, const Memory& out, const WhereView& where);
void check_disjoint(const char* operation, const Memory& out, const char* name, const TensorView& input);

// ValueError where a checked per-channel array has a number below zero.
void check_not_negative(const char* operation, const char* name, const TensorView& values);

}  // namespace bnfast::api
