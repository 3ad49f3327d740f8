// Memory of the CPU, as the backend of any device has memory.
#pragma once

#include <cstddef>

#include "bnfast/tensor.h"

namespace bnfast::cpu {

void* allocate(const Device&, std::size_t bytes);
void release(const Device&, void* memory);
void copy(const Device&, void* to, const void* from, std::size_t bytes);
void store_numbers(const double* values, const double* divisors, const TensorView& out);

}  // namespace bnfast::cpu
