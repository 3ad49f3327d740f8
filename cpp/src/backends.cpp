// The backends of this build. The only file that knows them all; which is asked is decided by a tensor's device.
#include <atomic>
#include <iterator>

#include "cpu/backend.h"
#include "cuda_library.h"
#include "problem/backend.h"
#include "problem/cuda_devices.h"
#include "problem/host.h"

namespace bnfast {
namespace {

std::atomic<const Backend*> backends[] = {&cpu::kBackend, nullptr};  // by Device::Type; CUDA's own is loaded

}  // namespace

const Backend* backend_of(Device::Type device) {
    const auto index = static_cast<std::size_t>(device);
    if (index >= std::size(backends)) return nullptr;
    const Backend* const backend = backends[index].load(std::memory_order_acquire);
    if (backend != nullptr || device != Device::Type::kCuda) return backend;
    const cuda::Library* const library = cuda_library();
    return library == nullptr ? nullptr : library->backend;
}

const char* why_no_backend(Device::Type device) {
    return device == Device::Type::kCuda ? why_no_cuda_library() : "bnfast has no kernels for it";
}

void set_backend(Device::Type device, const Backend* backend) {
    if (backend == nullptr && device == Device::Type::kCpu) backend = &cpu::kBackend;
    backends[static_cast<std::size_t>(device)].store(backend, std::memory_order_release);
}

const CudaDevices* cuda_devices() {
    const cuda::Library* const library = cuda_library();
    return library == nullptr ? nullptr : &library->devices;
}

const Host& host() { return cpu::kHost; }

}  // namespace bnfast
