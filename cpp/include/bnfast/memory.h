// Memory of a device, for what a call needs there beyond the tensors: numbers of a state, gradients of parameters.
#pragma once

#include <cstddef>

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
BNFAST_API void store_numbers(const double* values, const TensorView& out);

// What is enqueued on the stream of `later` from now on runs after all that is on the stream of `earlier`.
BNFAST_API void order(const Device& earlier, const Device& later);

}  // namespace bnfast
