// Memory for a new array of another library, which becomes that array when it holds its values.
#include "unfinished_array.h"

#include <algorithm>
#include <type_traits>

#include "arrays.h"
#include "bnfast/layout.h"
#include "bnfast/memory.h"
#include "gil.h"
#include "output_memory.h"
#include "register.h"
#include "streams.h"

namespace bnfast::bindings {

struct UnfinishedArray::Parts {
    dlpack::VersionedTensor versioned{};
    dlpack::LegacyTensor legacy{};
    std::unique_ptr<std::int64_t[]> dims;  // shape and strides
    Device device;
    void* data = nullptr;
    // Where the memory is from: that of the CPU is a block; that of a GPU is its library's, or the backend's.
    OutputBlock block;
    dlpack::VersionedTensor* of_library = nullptr;
    PyObject* stream_owner = nullptr;
};

namespace {

using Parts = UnfinishedArray::Parts;

// Called by whoever has the last array, with the GIL or without.
void destroy(Parts* parts) noexcept {
    if (parts->of_library != nullptr) {
        if (parts->of_library->deleter != nullptr) parts->of_library->deleter(parts->of_library);
    } else if (parts->device.type != Device::Type::kCpu) {
        release(parts->device, parts->data);
    } else {
        give_back(parts->block);
    }
    if (parts->stream_owner != nullptr && Py_IsInitialized() != 0) {
        const PyGILState_STATE state = or_wait_for_the_end([] { return PyGILState_Ensure(); });
        Py_DECREF(parts->stream_owner);
        PyGILState_Release(state);
    }
    delete parts;
}

dlpack::DataType type_of(DType dtype) {
    const auto bits = static_cast<std::uint8_t>(8 * item_size(dtype));
    switch (dtype) {
        case DType::kBFloat16: return {dlpack::kBFloat, bits, 1};
        case DType::kBool: return {dlpack::kBool, bits, 1};
        default: return {dlpack::kFloat, bits, 1};
    }
}

dlpack::Device device_of(const Device& device) {
    return {device.type == Device::Type::kCuda ? dlpack::kCuda : dlpack::kCpu, device.index};
}

// Memory of a library's own allocator, for so many elements side by side.
dlpack::VersionedTensor* allocate_by(const dlpack::Exchange& exchange, std::int64_t elements, DType dtype,
                                     const Device& device) {
    std::int64_t length = elements;
    dlpack::Tensor prototype{nullptr, device_of(device), 1, type_of(dtype), &length, nullptr, 0};
    dlpack::VersionedTensor* made = nullptr;
    std::string why;
    const auto remember = [](void* text, const char*, const char* message) {
        *static_cast<std::string*>(text) = message;
    };
    if (exchange.allocate(&prototype, &made, &why, remember) == 0) return made;
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    throw std::runtime_error(why.substr(0, why.find('\n')));
}

// What a library's from_dlpack is given: an object with memory to take, once.
class Offer {
  public:
    explicit Offer(Parts* parts) : parts_(parts), device_(parts->device) {}
    Offer(const Offer&) = delete;
    Offer& operator=(const Offer&) = delete;
    ~Offer() {
        if (parts_ != nullptr) destroy(parts_);
    }
    py::object capsule(const py::object& stream, const py::object& max_version) {
        if (parts_ == nullptr) throw py::buffer_error("the array was taken already");
        const bool versioned = !max_version.is_none() &&
                               py::cast<std::uint32_t>(py::object(max_version[py::int_(0)])) >= dlpack::kVersion.major;
        if (device_.type == Device::Type::kCuda) let_follow(device_, stream);
        PyObject* const made = versioned ? PyCapsule_New(&parts_->versioned, kVersioned, &drop<dlpack::VersionedTensor>)
                                         : PyCapsule_New(&parts_->legacy, kLegacy, &drop<dlpack::LegacyTensor>);
        if (made == nullptr) throw py::error_already_set();
        parts_ = nullptr;  // the capsule's
        return py::reinterpret_steal<py::object>(made);
    }
    py::tuple device() const {
        const dlpack::Device device = device_of(device_);
        return py::make_tuple(device.type, device.index);
    }

  private:
    // A capsule that nobody used. One that was has another name.
    template <class T>
    static void drop(PyObject* capsule) {
        const char* const name = std::is_same_v<T, dlpack::VersionedTensor> ? kVersioned : kLegacy;
        if (PyCapsule_IsValid(capsule, name) == 0) return;
        T* const tensor = static_cast<T*>(PyCapsule_GetPointer(capsule, name));
        tensor->deleter(tensor);
    }
    Parts* parts_;
    Device device_;
};

}  // namespace

void UnfinishedArray::Delete::operator()(Parts* parts) const noexcept { destroy(parts); }

UnfinishedArray::UnfinishedArray(const Library& library, const TensorView& described, const void* alike,
                                 const py::object& stream_owner)
    : library_(&library), parts_(new Parts) {
    Parts& parts = *parts_;
    parts.device = described.device;
    const std::int64_t elements = elements_of(described);
    const auto bytes = static_cast<std::size_t>(elements * item_size(described.dtype));
    if (described.device.type == Device::Type::kCpu) {
        const std::size_t phase = bytes < kLargeOutput ? 0 : reinterpret_cast<std::uintptr_t>(alike) % kLineBytes;
        parts.block = take_block(bytes + phase);
        parts.data = static_cast<char*>(parts.block.data) + phase;
    } else if (library.exchange != nullptr && library.exchange->allocate != nullptr) {
        parts.of_library = allocate_by(*library.exchange, elements, described.dtype, described.device);
        parts.data = static_cast<char*>(parts.of_library->tensor.data) + parts.of_library->tensor.byte_offset;
        run_after(parts.device, current_stream(library, parts.device.index).device);
    } else {
        parts.data = allocate(described.device, bytes);
        parts.stream_owner = py::object(stream_owner).release().ptr();
    }
    const auto ndim = static_cast<std::size_t>(described.ndim);
    parts.dims.reset(new std::int64_t[2 * ndim + 1]);
    std::int64_t* const strides = std::copy_n(described.shape, ndim, parts.dims.get());
    std::transform(described.strides, described.strides + ndim, strides,
                   [&](std::int64_t stride) { return stride / item_size(described.dtype); });
    parts.versioned.version = dlpack::kVersion;
    parts.versioned.tensor = {
        parts.data, device_of(described.device), described.ndim, type_of(described.dtype), parts.dims.get(), strides,
        0};
    parts.legacy.tensor = parts.versioned.tensor;
    parts.versioned.context = parts.legacy.context = &parts;
    parts.versioned.deleter = [](dlpack::VersionedTensor* t) { destroy(static_cast<Parts*>(t->context)); };
    parts.legacy.deleter = [](dlpack::LegacyTensor* t) { destroy(static_cast<Parts*>(t->context)); };
}

void* UnfinishedArray::data() const { return parts_->data; }

py::object UnfinishedArray::finish() {
    if (library_->exchange == nullptr) {
        const py::object offer = py::cast(std::make_unique<Offer>(parts_.release()));
        return call_python(library_->from_dlpack, offer);
    }
    const Device& device = parts_->device;
    if (device.type == Device::Type::kCuda) run_after(current_stream(*library_, device.index).device, device);
    void* made = nullptr;
    if (library_->exchange->adopt(&parts_.release()->versioned, &made) != 0) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(static_cast<PyObject*>(made));
}

void register_unfinished_array(py::module_& m) {
    using namespace py::literals;
    py::class_<Offer>(m, "_Offer",
                      "The memory of a new array, for the from_dlpack of the library whose array it becomes.")
        .def(
            "__dlpack__",
            [](Offer& offer, const py::object& stream, const py::object& max_version, const py::object&,
               const py::object&) { return offer.capsule(stream, max_version); },
            py::kw_only(), "stream"_a = py::none(), "max_version"_a = py::none(), "dl_device"_a = py::none(),
            "copy"_a = py::none())
        .def("__dlpack_device__", &Offer::device);
}

}  // namespace bnfast::bindings
