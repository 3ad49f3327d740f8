// The front desk of a device's memory.
#include "api/checks.h"
#include "bnfast/memory.h"
#include "problem/backend.h"

namespace bnfast {

void* allocate(const Device& device, std::size_t bytes) {
    return api::check_device("allocate", "memory", device).allocate(device, bytes);
}

void release(const Device& device, void* memory) noexcept {
    const Backend* const backend = backend_of(device.type);
    if (backend != nullptr && memory != nullptr) backend->release(device, memory);
}

void copy_to_host(const Device& device, void* to, const void* from, std::size_t bytes) {
    const Backend& backend = api::check_device("copy_to_host", "from", device);
    if (bytes > 0) backend.copy_to_host(device, to, from, bytes);
}

void copy_from_host(const Device& device, void* to, const void* from, std::size_t bytes) {
    const Backend& backend = api::check_device("copy_from_host", "to", device);
    if (bytes > 0) backend.copy_from_host(device, to, from, bytes);
}

void store_numbers(const double* values, const double* divisors, const TensorView& out) {
    const char* const operation = "store_numbers";
    api::check_numbers(operation, "out", out);
    api::check_device(operation, "out", out.device).store_numbers(values, divisors, out);
}

void order(const Device& earlier, const Device& later) {
    const char* const operation = "order";
    if (earlier != later) api::fail(operation, "earlier and later are of different devices, expected streams of one");
    api::check_device(operation, "earlier", earlier).order(earlier, later);
}

}  // namespace bnfast
