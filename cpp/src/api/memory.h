// Which bytes a view touches: whether two views, or two elements of one, share any.
#pragma once

#include <cstdint>

#include "bnfast/tensor.h"

namespace bnfast::api {

// The bytes of a view: items at begin + any combination of steps. Strides are positive, largest first. No allocation:
// a call makes a dozen of these, and one of few elements takes microseconds.
struct Memory {
    struct Dim {
        std::int64_t stride, steps;
    };
    std::uintptr_t begin = 0;
    std::int64_t item = 0;  // bytes; 0: no element at all
    int ndim = 0;
    Dim dims[kMaxDims];  // the first ndim
};

Memory memory_of(const TensorView& view);
Memory memory_of(const double* numbers, std::int64_t count);

// Exact for views whose dimensions nest, as slices of one buffer do; says false where it cannot tell.
bool disjoint(const Memory& a, const Memory& b);
bool overlaps_itself(const Memory& memory);
// The same elements at the same places.
bool same_memory(const TensorView& a, const TensorView& b);

}  // namespace bnfast::api
