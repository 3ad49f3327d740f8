// Arrays of other libraries, by DLPack: how their memory is read.
#include "library.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <unordered_map>

#include "arrays.h"
#include "bnfast/cuda.h"
#include "bnfast/error.h"
#include "gil.h"
#include "register.h"
#include "streams.h"

namespace bnfast::bindings {
namespace {

[[noreturn]] void refuse(const char* operation, const char* name, const std::string& why) {
    throw TypeError(std::string(operation) + ": " + name + " " + why);
}
std::string type_name(const py::handle& object) { return py::str(py::type::handle_of(object).attr("__name__")); }

// The message of the Python error that is set, which is cleared. Its first line: PyTorch appends its stack.
std::string take_message() {
    PyObject *type = nullptr, *value = nullptr, *trace = nullptr;
    PyErr_Fetch(&type, &value, &trace);
    const auto owned_type = py::reinterpret_steal<py::object>(type), owned = py::reinterpret_steal<py::object>(value),
               owned_trace = py::reinterpret_steal<py::object>(trace);
    const std::string text = owned ? std::string(py::str(owned)) : std::string();
    return text.substr(0, text.find('\n'));
}

// --- which library ----------------------------------------------------------------------------------------------

// Null where the type has none, or one that is newer than what is known here and has no older one beside it.
const dlpack::Exchange* exchange_of(PyTypeObject* type) {
    const auto capsule = py::getattr(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__", py::none());
    if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
    auto* header = static_cast<dlpack::ExchangeHeader*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    while (header != nullptr && header->version.major != dlpack::kVersion.major) header = header->previous;
    const auto* const exchange = reinterpret_cast<const dlpack::Exchange*>(header);
    return exchange != nullptr && exchange->borrow != nullptr ? exchange : nullptr;
}

// The package where an array's type is from.
std::string package_of(const py::handle& object) {
    const std::string module = py::str(py::type::handle_of(object).attr("__module__"));
    return module.substr(0, module.find('.'));
}

// The function that makes arrays: of the array API standard's namespace, or of the package.
py::object from_dlpack_of(const py::handle& object) {
    py::object space;
    if (py::hasattr(object, "__array_namespace__")) {
        space = object.attr("__array_namespace__")();
    } else {
        space = py::module_::import(package_of(object).c_str());
    }
    return py::getattr(space, "from_dlpack", py::none());
}

Library* new_library(const char* operation, const char* name, const py::handle& object) {
    PyTypeObject* const type = Py_TYPE(object.ptr());
    auto library = std::make_unique<Library>();
    library->exchange = exchange_of(type);
    library->has_gradients = py::hasattr(reinterpret_cast<PyObject*>(type), "requires_grad");
    const std::string package = package_of(object);
    library->immutable = package == "jaxlib";
    library->streams = library->has_gradients ? Streams::kOfTorch
                       : package == "cupy"    ? Streams::kOfCupy
                                              : Streams::kDefault;
    if (library->exchange == nullptr) {
        const py::object from_dlpack = from_dlpack_of(object);
        if (from_dlpack.is_none()) {
            refuse(operation, name, "is of type " + type_name(object) + ", whose library has no from_dlpack");
        }
        library->from_dlpack = from_dlpack.inc_ref().ptr();
    }
    Py_INCREF(type);
    return library.release();
}

// A name that Python code uses, made once: a string for each use takes as long as what is done with it.
PyObject* interned(PyObject*& slot, const char* name) {
    if (slot == nullptr) slot = PyUnicode_InternFromString(name);
    return slot;
}
bool is_true(PyObject* result) {
    if (result == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result).ptr() == Py_True;
}

// PyTorch: results would not know their gradients. And a negation that is still to be done is a flag that DLPack does
// not have: such a tensor cannot be read in place.
void check_torch(const char* operation, const char* name, const py::handle& tensor) {
    static PyObject *requires_grad = nullptr, *is_neg = nullptr, *grad_enabled = nullptr;
    if (is_true(PyObject_GetAttr(tensor.ptr(), interned(requires_grad, "requires_grad"))) &&
        call_python(imported_once(grad_enabled, "torch", "is_grad_enabled")).ptr() == Py_True) {
        throw ValueError(std::string(operation) + ": " + name +
                         " requires grad, expected bnfast.torch for results that know their gradients, or " + name +
                         ".detach()");
    }
    if (is_true(PyObject_CallMethodNoArgs(tensor.ptr(), interned(is_neg, "is_neg")))) {
        refuse(operation, name, "is a view that negates on reading, expected its resolve_neg()");
    }
}

// --- what arrays say --------------------------------------------------------------------------------------------

// Whether the numbers can be true of memory. What an array of theirs really holds only its library knows.
const char* untruth(const dlpack::Tensor& t) {
    if (t.ndim < 0 || t.ndim > kMaxDims) return "an impossible number of dimensions";
    if (t.ndim > 0 && t.shape == nullptr) return "no shape";
    if (t.dtype.lanes != 1) return "several lanes an element";
    constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max() / 16;  // no element is so wide
    std::int64_t elements = 1, reach = 0;
    bool empty = false;
    for (int k = 0; k < t.ndim; ++k) {
        if (t.shape[k] < 0) return "a negative length";
        // What follows multiplies the other lengths, too, where one of them is 0.
        const std::int64_t length = std::max<std::int64_t>(t.shape[k], 1);
        if (elements > kLargest / length) return "more elements than memory has";
        elements *= length;
        empty = empty || t.shape[k] == 0;
    }
    for (int k = 0; t.strides != nullptr && k < t.ndim; ++k) {
        const std::int64_t stride = t.strides[k], steps = t.shape[k] - 1;
        if (stride < -kLargest || stride > kLargest) return "a stride beyond memory";
        if (steps > 0 && std::abs(stride) > (kLargest - reach) / steps) return "strides beyond memory";
        reach += steps * std::abs(stride);
    }
    return t.data == nullptr && !empty ? "no memory" : nullptr;
}

// What object.__dlpack__() returns, by the newest form that it has. The array is to be read on the stream of `device`.
py::object capsule_of(const py::handle& object, const Device& device) {
    using namespace py::literals;
    const py::object method = object.attr("__dlpack__");
    py::dict arguments;
    if (device.type == Device::Type::kCuda) arguments["stream"] = number_of_stream(device);
    try {
        return method("max_version"_a = py::make_tuple(dlpack::kVersion.major, dlpack::kVersion.minor), **arguments);
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_TypeError)) throw;
    }
    return method(**arguments);
}

// Where an array says that it is.
dlpack::Device device_of(const py::handle& object) {
    const py::object method = py::getattr(object, "__dlpack_device__", py::none());
    if (method.is_none()) return {dlpack::kCpu, 0};
    const auto device = py::cast<std::pair<std::int32_t, std::int32_t>>(py::tuple(method()));
    return {device.first, device.second};
}

std::string device_text(const dlpack::Device& device) {
    const std::string name = device.type == dlpack::kCpu    ? "cpu"
                             : device.type == dlpack::kCuda ? "cuda"
                                                            : "DLPack device " + std::to_string(device.type);
    return name + ":" + std::to_string(device.index);
}

}  // namespace

const Library* library_of(const char* operation, const char* name, const py::handle& object) {
    static auto* const libraries = new std::unordered_map<PyTypeObject*, Library*>;
    static PyTypeObject* last_type = nullptr;
    static const Library* last = nullptr;
    PyTypeObject* const type = Py_TYPE(object.ptr());
    if (type == last_type) return last;
    const auto known = libraries->find(type);
    if (known == libraries->end()) {
        if (!py::hasattr(reinterpret_cast<PyObject*>(type), "__dlpack__") || py::isinstance<py::array>(object)) {
            return nullptr;
        }
        Library* const made = new_library(operation, name, object);  // runs Python code, which may call this function
        libraries->emplace(type, made);
        return made;
    }
    last_type = type;
    last = known->second;
    return last;
}

void report_write(const Library& library, const py::handle& array) {
    static PyObject* increment_version = nullptr;
    if (!library.has_gradients) return;
    call_python(imported_once(increment_version, "torch.autograd.graph", "increment_version"), array);
}

void Lent::release() noexcept {
    // Its streams are not known, so its owner cannot be told to wait before the memory is used again.
    if (waits_ && tensor.data != nullptr) wait_for(device, static_cast<const char*>(tensor.data) + tensor.byte_offset);
    waits_ = false;
    if (versioned_ != nullptr && versioned_->deleter != nullptr) versioned_->deleter(versioned_);
    if (legacy_ != nullptr && legacy_->deleter != nullptr) legacy_->deleter(legacy_);
    versioned_ = nullptr;
    legacy_ = nullptr;
}

void Lent::use_device(const char* operation, const char* name, const Library& library, const dlpack::Device& where) {
    device = {};
    if (where.type == dlpack::kCpu) return;
    const char* const why = where.type == dlpack::kCuda ? cuda_unavailable() : "";
    if (why != nullptr) {
        throw ValueError(std::string(operation) + ": " + name + " is on " + device_text(where) + ", expected cpu" +
                         (*why == '\0' ? "" : ": ") + why);
    }
    waits_ = library.exchange == nullptr && library.streams == Streams::kDefault;
    CurrentStream current = current_stream(library, where.index);
    device = current.device;
    stream_owner = std::move(current.owner);
}

void Lent::borrow_capsule(const char* operation, const char* name, const Library& library, const py::handle& object) {
    py::object capsule;
    dlpack::Device said{};
    try {
        said = device_of(object);
    } catch (py::error_already_set& error) {
        refuse(operation, name, "cannot be read by DLPack: " + std::string(py::str(error.value())));
    }
    use_device(operation, name, library, said);
    try {
        // PyTorch before 2.10 lends no tensor that requires grad, even where it does not record.
        capsule =
            capsule_of(library.has_gradients ? object.attr("detach")() : py::reinterpret_borrow<py::object>(object),
                       device);
    } catch (py::error_already_set& error) {
        refuse(operation, name, "cannot be read by DLPack: " + std::string(py::str(error.value())));
    }
    if (PyCapsule_IsValid(capsule.ptr(), kVersioned) != 0) {
        versioned_ = static_cast<dlpack::VersionedTensor*>(PyCapsule_GetPointer(capsule.ptr(), kVersioned));
        PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
        if (versioned_->version.major != dlpack::kVersion.major) {
            refuse(operation, name, "has a newer form of DLPack");
        }
        read_only = read_only || (versioned_->flags & dlpack::kReadOnly) != 0;
        tensor = versioned_->tensor;
    } else if (PyCapsule_IsValid(capsule.ptr(), kLegacy) != 0) {
        legacy_ = static_cast<dlpack::LegacyTensor*>(PyCapsule_GetPointer(capsule.ptr(), kLegacy));
        PyCapsule_SetName(capsule.ptr(), "used_dltensor");
        tensor = legacy_->tensor;
    } else {
        refuse(operation, name, "has a __dlpack__ that returns no capsule of DLPack");
    }
    // Of several CPU devices, which are one memory, libraries do not always tell the number.
    if (tensor.device.type != said.type || (said.type != dlpack::kCpu && tensor.device.index != said.index)) {
        refuse(operation, name,
               "is on " + device_text(tensor.device) + ", but its __dlpack_device__ says " + device_text(said));
    }
}

void Lent::borrow(const char* operation, const char* name, const Library& library, const py::handle& object) {
    release();
    read_only = library.immutable;
    if (library.has_gradients) check_torch(operation, name, object);
    if (library.exchange == nullptr) {
        borrow_capsule(operation, name, library, object);
    } else if (library.exchange->borrow(object.ptr(), &tensor) == 0) {
        use_device(operation, name, library, tensor.device);
    } else {
        refuse(operation, name, "cannot be read by DLPack: " + take_message());
    }
    if (const char* const what = untruth(tensor)) refuse(operation, name, std::string("describes ") + what);
}

// --- copies -----------------------------------------------------------------------------------------------------

namespace {

py::object as_library(const py::object& array, const py::object& like) {
    const Library* const library = library_of("as_library", "like", like);
    if (library == nullptr) return array;
    const py::array dense = py::array::ensure(array, py::array::c_style);  // may be a copy, which the view does not own
    ArrayView view, like_view;
    view.bind("as_library", "array", dense);
    like_view.bind("as_library", "like", like);
    return copy_like(view.get(), like_view);
}

}  // namespace

void register_library(py::module_& m) {
    using namespace py::literals;
    m.def(
        "as_numpy",
        [](const char* operation, const char* name, const py::object& array) {
            ArrayView view;
            view.bind(operation, name, array);
            return as_numpy(array, view);
        },
        "operation"_a, "name"_a, "array"_a, "The array as NumPy's: itself, or a copy.");
    m.def("as_library", &as_library, "array"_a, "like"_a, "A copy of NumPy's array in the library of `like`.");
}

}  // namespace bnfast::bindings
