// The state of a normalization in a C caller's memory: a header, and behind it the numbers, unless these are on a
// device.
#include "c/norm_state.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <type_traits>

#include "bnfast/memory.h"
#include "c/arguments.h"
#include "c/moments.h"
#include "c/status.h"

namespace bnfast::c {
namespace {

// Another version's states may be laid out in another way.
constexpr char kFormat[24] = "bnfast " BNFAST_VERSION;

struct Header {
    char format[sizeof kFormat];
    NormState state;  // whose numbers have an address where they are on a device, and none behind the header
};
static_assert(std::is_trivially_copyable_v<NormState> && sizeof(Header) % alignof(double) == 0);

void check_memory(const char* operation, const void* memory, std::size_t bytes) {
    check_pointer(operation, "state", memory);
    if (reinterpret_cast<std::uintptr_t>(memory) % alignof(double) != 0) {
        fail(operation, "state is not aligned, expected memory as for double");
    }
    if (bytes < sizeof(Header)) {
        fail(operation, "state_bytes is " + std::to_string(bytes) + ", expected what ..._state_bytes says");
    }
}

// Gives the state its numbers: those behind the header, or on a device these.
void point_to_numbers(NormState& state, const Device& device, double* on_device, void* memory, std::size_t bytes) {
    double* const behind = reinterpret_cast<double*>(static_cast<char*>(memory) + sizeof(Header));
    state.values = device.type == Device::Type::kCpu ? behind : on_device;
    state.capacity = static_cast<std::int64_t>((bytes - sizeof(Header)) / sizeof(double));
}

}  // namespace

std::size_t state_bytes_of(std::int64_t numbers) {
    return sizeof(Header) + static_cast<std::size_t>(numbers) * sizeof(double);
}

NewState::NewState(const char* operation, const Inputs& inputs, void* memory, std::size_t bytes) : memory_(memory) {
    check_memory(operation, memory, bytes);
    const Device& device = inputs.device();
    if (device.type == Device::Type::kCpu && inputs.state_numbers() != nullptr) {
        fail(operation, "inputs.state_numbers is there, expected NULL as x is on the CPU");
    }
    std::fill_n(state_.shape, kMaxDims, 0);  // all of it is stored
    point_to_numbers(state_, device, inputs.state_numbers(), memory, bytes);
}

void NewState::finish() {
    if (state_.device.type == Device::Type::kCpu) state_.values = nullptr;
    Header header;
    std::memcpy(header.format, kFormat, sizeof kFormat);
    header.state = state_;
    std::memcpy(memory_, &header, sizeof header);
}

NormState filled_state(const char* operation, const void* memory, std::size_t bytes) {
    check_memory(operation, memory, bytes);
    Header header;
    std::memcpy(&header, memory, sizeof header);
    if (std::memcmp(header.format, kFormat, sizeof kFormat) != 0) {
        fail(operation, std::string("state holds none of ") + kFormat + ", expected one that a forward call filled");
    }
    NormState& state = header.state;
    point_to_numbers(state, state.device, state.values, const_cast<void*>(memory), bytes);  // which are only read
    return state;
}

}  // namespace bnfast::c

using namespace bnfast::c;

bnfast_status bnfast_norm_state_moments(const void* state, size_t state_bytes, const bnfast_moments* moments) {
    const char* const operation = "norm_state_moments";
    return status_of(operation, [&] {
        const bnfast::NormState filled = filled_state(operation, state, state_bytes);
        const std::int64_t n = filled.statistics;
        if (n < 0 || filled.parameters < 0 || n > filled.capacity / 5) fail(operation, "state is damaged");
        const auto row = [&](const double* begin) {
            std::vector<double> numbers(static_cast<std::size_t>(n));
            bnfast::copy_to_host(filled.device, numbers.data(), begin, numbers.size() * sizeof(double));
            return numbers;
        };
        const std::vector<double> count = row(filled.count());
        copy(operation, "moments",
             {{count.begin(), count.end()}, row(filled.mean()), row(filled.mean_low()), row(filled.m2())}, moments);
    });
}
