// The order in which the elements of a strided view lie in memory.
#pragma once

#include "bnfast/tensor.h"

namespace bnfast {

// The view's dimensions from the one of the largest stride to the one of the least. Along a dimension of stride 0
// (broadcast) or length 1 nothing lies in memory: it stands where the order of indices has it, before the first that
// comes behind it there, so that a broadcast view of an array in C order has the order of its copy.
void memory_order(const TensorView& view, unsigned char* dims);

// The product of the shape.
std::int64_t elements_of(const TensorView& view);

}  // namespace bnfast
