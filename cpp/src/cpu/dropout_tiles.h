// Dropout of tensors whose elements do not lie in C order, as images with channels last.
#pragma once

#include <cstdint>
#include <functional>

#include "problem/dropout_problem.h"

namespace bnfast::cpu {

// Computes n elements of y from those of x, side by side in memory. `index` is that of the first in the mask.
using DropElements = std::function<void(const char* x, char* y, std::int64_t n, std::uint64_t index)>;

// The mask follows the C order of the shape, so that neighbours in memory have bits that are far apart, and bits are
// made by the hundred. So tiles of x are copied to where they stay in a cache, with rows in C order, are dropped there,
// and are copied to y: nothing of the size of a tensor is needed beside x and y.
void dropout_by_tiles(const DropoutProblem& problem, const DropElements& drop);

}  // namespace bnfast::cpu
