// The backends of this build. The only file that knows them all; which is asked is decided by a tensor's device.
#include <atomic>
#include <iterator>

#include "cpu/backend.h"
#include "problem/backend.h"
#include "problem/host.h"

namespace bnfast {
namespace {

std::atomic<const Backend*> backends[] = {&cpu::kBackend, nullptr};  // by Device::Type

}  // namespace

const Backend* backend_of(Device::Type device) {
    const auto index = static_cast<std::size_t>(device);
    return index < std::size(backends) ? backends[index].load(std::memory_order_acquire) : nullptr;
}

const Backend* set_backend(Device::Type device, const Backend* backend) {
    return backends[static_cast<std::size_t>(device)].exchange(backend);
}

const Host& host() { return cpu::kHost; }

}  // namespace bnfast
