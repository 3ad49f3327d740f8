// The streams of GPUs on which libraries of arrays work, and how calls take their place among what these enqueue.
#include "streams.h"

#include <cstdint>
#include <exception>

#include "arrays.h"
#include "bnfast/layout.h"
#include "bnfast/memory.h"
#include "gil.h"

namespace bnfast::bindings {

namespace {

void* pointer_of(const py::object& number) {
    void* const pointer = PyLong_AsVoidPtr(number.ptr());
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    return pointer;
}

}  // namespace

CurrentStream current_stream(const Library& library, int device_index) {
    static PyObject *of_torch = nullptr, *of_cupy = nullptr;
    CurrentStream current{{Device::Type::kCuda, device_index}, {}};
    const auto take = [&](const py::object& stream, const char* handle) {
        current.device.stream = pointer_of(stream.attr(handle));
        current.owner = stream;
    };
    if (library.exchange != nullptr && library.exchange->current_stream != nullptr) {
        if (library.exchange->current_stream(dlpack::kCuda, device_index, &current.device.stream) != 0) {
            throw py::error_already_set();
        }
    } else if (library.streams == Streams::kOfTorch) {
        take(imported_once(of_torch, "torch.cuda", "current_stream")(device_index), "cuda_stream");
    } else if (library.streams == Streams::kOfCupy) {
        take(imported_once(of_cupy, "cupy.cuda", "get_current_stream")(device_index), "ptr");
    }
    return current;
}

py::int_ number_of_stream(const Device& device) {
    return device.stream == nullptr ? py::int_(1) : py::int_(reinterpret_cast<std::uintptr_t>(device.stream));
}

void let_follow(const Device& ours, const py::object& number) {
    const auto theirs = number.is_none() ? 1 : py::cast<std::intptr_t>(number);
    if (theirs == -1) return;
    Device later = ours;
    later.stream = theirs == 1 ? nullptr : pointer_of(number);
    run_after(later, ours);
}

std::int64_t elements_or_wait(const TensorView& x) {
    return x.device.type == Device::Type::kCpu ? elements_of(x) : ReleasedGil::kWorthwhile;
}

void wait_for(const Device& device, const void* memory) noexcept {
    try {
        char byte;
        const ReleasedGil released;
        copy_to_host(device, &byte, memory, 1);
    } catch (const std::exception&) {
        // The GPU has failed, as the next call on it will say.
    }
}

void run_after(const Device& later, const Device& earlier) {
    if (later == earlier && later.stream != earlier.stream) order(earlier, later);
}

UseOnStream::UseOnStream(const Device& owner, const Device& user) : owner_(owner), user_(user) {
    run_after(user_, owner_);
}
UseOnStream::~UseOnStream() {
    try {
        run_after(owner_, user_);
    } catch (const std::exception&) {
        // The GPU has failed, as the next call on it will say.
    }
}

}  // namespace bnfast::bindings
