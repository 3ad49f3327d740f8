// The front desk of what is known of CUDA here.
#include "bnfast/cuda.h"

#include "api/checks.h"
#include "problem/cuda_devices.h"

namespace bnfast {

const char* cuda_unavailable() {
    return backend_of(Device::Type::kCuda) == nullptr ? why_no_backend(Device::Type::kCuda) : nullptr;
}

int cuda_device_count() {
    const CudaDevices* const devices = cuda_devices();
    return devices == nullptr ? 0 : devices->count();
}

CudaDevice cuda_device(int index) {
    const int count = cuda_device_count();
    if (index < 0 || index >= count) {
        api::fail("cuda_device", "index is " + std::to_string(index) + ", expected one of " + std::to_string(count) +
                                     " devices" +
                                     (count == 0 ? ": " + std::string(why_no_backend(Device::Type::kCuda)) : ""));
    }
    return cuda_devices()->describe(index);
}

const char* cuda_architectures() {
    const CudaDevices* const devices = cuda_devices();
    return devices == nullptr ? "" : devices->architectures;
}

}  // namespace bnfast
