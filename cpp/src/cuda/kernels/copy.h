// Elements of any strides to dense memory and back: for tensors that kernels cannot walk as they are.
#pragma once

#include "bnfast/tensor.h"
#include "cuda/kernels/task.h"

namespace bnfast::cuda {

enum class Direction : int { kToDense, kFromDense };

// Element: an unsigned integer of the size of what is copied.
template <class Element>
struct CopyKernel {
    char* strided = nullptr;
    Element* dense = nullptr;
    IndexMapOf<kMaxDims + 1> place;  // in bytes
    std::int64_t elements = 0;
    Direction direction = Direction::kToDense;

    BNFAST_DEVICE void operator()() const {
        for_each_index(elements, [&](std::int64_t i) {
            Element* const at = reinterpret_cast<Element*>(strided + place.at(i));
            if (direction == Direction::kToDense) {
                dense[i] = *at;
            } else {
                *at = dense[i];
            }
        });
    }
};

}  // namespace bnfast::cuda
