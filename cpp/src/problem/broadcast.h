// Which entry of a `where` of smaller shape belongs to which element of x.
#pragma once

#include <cstdint>

#include "bnfast/tensor.h"

namespace bnfast {

// Fills the strides of `where` along x's dimensions: zero where it is broadcast, and along the channel axis, which it
// lacks or has with length 1. False where its shape does not fit.
bool broadcast_strides(const TensorView& where, const TensorView& x, int axis, std::int64_t* strides);

}  // namespace bnfast
