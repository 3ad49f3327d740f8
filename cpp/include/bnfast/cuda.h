// Whether tensors on CUDA devices can be computed here, and the devices that there are.
//
// What does so is a library of its own, which is loaded when one of these functions, or a call with such a tensor,
// first asks for it: libbnfast_cuda, beside libbnfast, or the file that the environment variable BNFAST_CUDA_LIBRARY
// names.
#pragma once

#include <cstdint>

#include "bnfast/export.h"

namespace bnfast {

// Null where there is CUDA; otherwise why not, as a sentence without its full stop: "no CUDA driver was found".
BNFAST_API const char* cuda_unavailable();
// 0 where there is no CUDA.
BNFAST_API int cuda_device_count();

struct CudaDevice {
    char name[64];
    int major, minor;           // compute capability
    std::int64_t memory_bytes;  // in all
};
// ValueError where there is no such device.
BNFAST_API CudaDevice cuda_device(int index);

// What kernels were compiled for, as "75-real 80-real ... 120", and "" where there is no CUDA.
BNFAST_API const char* cuda_architectures();

}  // namespace bnfast
