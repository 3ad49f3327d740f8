// What the library of the CUDA backend shows: one function, by which libbnfast learns all that there is.
#pragma once

#include "problem/backend.h"
#include "problem/cuda_devices.h"

namespace bnfast::cuda {

// The version stays the first member: of a library of another version, nothing else is read.
struct Library {
    const char* version;
    const Backend* backend;
    CudaDevices devices;
    const char* (*why_unavailable)();  // null where there is a device
};

}  // namespace bnfast::cuda

extern "C" __attribute__((visibility("default"))) const bnfast::cuda::Library* bnfast_cuda_library();
