// The GPUs of the machine, as functions that api/ can call.
#pragma once

#include "bnfast/cuda.h"

namespace bnfast {

// bnfast/cuda.h says what each means. Arguments were checked before.
struct CudaDevices {
    const char* architectures;
    int (*count)();
    CudaDevice (*describe)(int index);
};
// Null where there are none, as why_no_backend() then says.
const CudaDevices* cuda_devices();

}  // namespace bnfast
