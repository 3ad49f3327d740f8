// The kernels of one element type, as functions that launch them.
#pragma once

#include "cuda/kernels/dropout.h"
#include "cuda/kernels/task.h"
#include "cuda/runtime.h"

namespace bnfast::cuda {

// Each completes the task's `work`: how it is cut depends on what a kernel takes of the chip.
struct ElementKernels {
    void (*forward)(NormTask& task, bool rows, Stream stream);
    // Where parameters lie along the inner elements, fills `partials` with rows of sums for them; returns how many.
    std::int64_t (*backward)(NormTask& task, bool rows, DeviceMemory<double>& partials, Stream stream);
    void (*dropout)(const DropoutTask& task, bool vectors, Stream stream);
};

// Of one of the types of storage.h.
template <class S>
const ElementKernels& kernels_of_element();
template <>
const ElementKernels& kernels_of_element<float>();
template <>
const ElementKernels& kernels_of_element<double>();
template <>
const ElementKernels& kernels_of_element<Half>();
template <>
const ElementKernels& kernels_of_element<BFloat16>();

inline const ElementKernels& kernels_of(DType dtype) {
    switch (dtype) {
        case DType::kFloat64: return kernels_of_element<double>();
        case DType::kFloat16: return kernels_of_element<Half>();
        case DType::kBFloat16: return kernels_of_element<BFloat16>();
        default: return kernels_of_element<float>();
    }
}

}  // namespace bnfast::cuda
