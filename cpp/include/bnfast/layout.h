// The order in which the elements of a strided view lie in memory.
#pragma once

#include "bnfast/export.h"
#include "bnfast/tensor.h"

namespace bnfast {

// The view's dimensions from the one of the largest stride to the one of the least. Dimensions of stride 0
// (broadcast) or length 1 have no place in memory: each goes before the first dimension with a larger index, so that a
// broadcast view of an array in C order has the order of its copy. `dims` has room for view.ndim entries.
BNFAST_API void memory_order(const TensorView& view, unsigned char* dims);

// The product of the shape.
BNFAST_API std::int64_t elements_of(const TensorView& view);

}  // namespace bnfast
