// Memory of a device, for what a call needs there beyond the tensors: numbers of a state, gradients of parameters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "bnfast/export.h"
#include "bnfast/tensor.h"

namespace bnfast {

// On a device with streams everything here happens in the order of the device's `stream`, and only copy_to_host waits
// for it. ValueError where the device cannot be used.

// Memory of at least so many bytes, of no particular content. std::bad_alloc where there is no more.
BNFAST_API void* allocate(const Device& device, std::size_t bytes);
// Gives back what allocate() returned, or nothing where that is null. What was enqueued before may still use it.
BNFAST_API void release(const Device& device, void* memory) noexcept;

// Between memory of the device and that of the program.
BNFAST_API void copy_to_host(const Device& device, void* to, const void* from, std::size_t bytes);
// `from` may change once it returns.
BNFAST_API void copy_from_host(const Device& device, void* to, const void* from, std::size_t bytes);

// Numbers on the device of `out`, which is of float32 or float64: rounded to its type, in the order of its indices.
// Each is divided by its divisor before, unless `divisors` is null.
BNFAST_API void store_numbers(const double* values, const double* divisors, const TensorView& out);

// What is enqueued on the stream of `later` from now on runs after all that is on the stream of `earlier`.
BNFAST_API void order(const Device& earlier, const Device& later);

// Float64 numbers where a tensor is, which nobody has set yet. Those of the CPU are plain memory of C++.
struct ReturnNumbers {
    Device device;
    void operator()(double* numbers) const {
        if (device.type == Device::Type::kCpu) {
            delete[] numbers;
        } else {
            release(device, numbers);
        }
    }
};
using Numbers = std::unique_ptr<double[], ReturnNumbers>;
inline Numbers new_numbers(std::int64_t count, const Device& device) {
    const auto size = static_cast<std::size_t>(count);
    if (device.type == Device::Type::kCpu) return {new double[size], {device}};
    return {static_cast<double*>(allocate(device, size * sizeof(double))), {device}};
}

}  // namespace bnfast
