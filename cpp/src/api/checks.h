// Preconditions: each check throws ValueError or TypeError with one message form, operation, argument, got, expected.
// Names are const char*: to make a std::string of each would take longer than a small batch norm.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "api/memory.h"
#include "bnfast/error.h"
#include "bnfast/norm_options.h"
#include "problem/backend.h"

namespace bnfast::api {

std::string shape_text(const std::int64_t* shape, int ndim);
inline std::string shape_text(const TensorView& view) { return shape_text(view.shape, view.ndim); }
const char* dtype_name(DType dtype);
std::string device_text(const Device& device);
std::string number_text(double value);

[[noreturn]] void fail(const char* operation, const std::string& what);

// --- tensors ----------------------------------------------------------------------------------------------------

// A view that describes memory: a number of dimensions, lengths that are not negative, strides, a dtype, and data
// unless there are no elements.
void check_memory(const char* operation, const char* name, const TensorView& view);
// The same, of floating-point numbers.
void check_tensor(const char* operation, const char* name, const TensorView& view);
// A tensor of x's shape and dtype, on its device. `like` is how messages call x.
void check_like(const char* operation, const char* name, const TensorView& value, const char* like,
                const TensorView& x);
// The same, of float32 or float64.
void check_numbers(const char* operation, const char* name, const TensorView& view);
// One float32 or float64 entry for each channel, on x's device.
void check_channel_values(const char* operation, const char* name, const TensorView& values, const TensorView& x,
                          int axis);
// One float32 or float64 entry for each element of the axes of x from `axis` on.
void check_axes_values(const char* operation, const char* name, const TensorView& values, const TensorView& x,
                       int axis);
void check_where(const char* operation, const TensorView& where, const TensorView& x, int axis);
// A pointer that is to be written or read.
void check_pointer(const char* operation, const char* name, const void* pointer);

// The backend of the device where a tensor is: ValueError where there is none.
const Backend& check_device(const char* operation, const char* name, const Device& device);

// ValueError where two elements of a result share memory.
void check_output(const char* operation, const Memory& memory, const char* result);
// ValueError where a result shares memory with another argument.
void check_disjoint(const char* operation, const Memory& memory, const char* result, const char* other,
                    const Memory& others);
void check_disjoint(const char* operation, const Memory& memory, const char* result, const char* other,
                    const TensorView& view);
void check_disjoint(const char* operation, const Memory& memory, const char* result, const char* other,
                    const std::optional<TensorView>& view);

// --- numbers ----------------------------------------------------------------------------------------------------

// The axis counted from the front; ValueError where x has no such axis.
int check_axis(const char* operation, const TensorView& x, int axis);
void check_options(const char* operation, const NormOptions& options);
void check_rate(const char* operation, const char* name, double rate);

}  // namespace bnfast::api
