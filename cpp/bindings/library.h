// Arrays of other libraries, by DLPack: how their memory is read.
#pragma once

#include <pybind11/pybind11.h>

#include "bnfast/tensor.h"
#include "dlpack.h"

namespace bnfast::bindings {

namespace py = pybind11;

// The names of capsules, with versions and before these.
constexpr const char* kVersioned = "dltensor_versioned";
constexpr const char* kLegacy = "dltensor";

// On which stream of a GPU a library works that has no exchange: CUDA's default stream, unless something else is known.
enum class Streams { kDefault, kOfTorch, kOfCupy };

// How the arrays of one type are read and made. There is one for each type, which is never destroyed.
struct Library {
    const dlpack::Exchange* exchange = nullptr;  // or null where the type has only __dlpack__
    PyObject* from_dlpack = nullptr;             // needed where there is no exchange
    Streams streams = Streams::kDefault;
    bool has_gradients = false;  // arrays may be part of a graph that PyTorch differentiates
    bool immutable = false;      // arrays are never written, though DLPack does not say so of them
};

// The library of an array that is not NumPy's, and null for any other object. TypeError where its library has no
// from_dlpack.
const Library* library_of(const char* operation, const char* name, const py::handle& object);

// Tells PyTorch that a tensor was written, so that a gradient which needs what it held before is refused.
void report_write(const Library& library, const py::handle& array);

// An array's own account of itself, and what keeps its memory alive.
class Lent {
  public:
    Lent() = default;
    Lent(const Lent&) = delete;
    Lent& operator=(const Lent&) = delete;
    ~Lent() { release(); }

    // TypeError where `object` cannot lend its memory, or describes something that no array can be. ValueError where it
    // is on a device that calls cannot work on.
    void borrow(const char* operation, const char* name, const Library& library, const py::handle& object);

    dlpack::Tensor tensor{};
    bool read_only = false;
    // Of an array on a GPU: the stream on which its library works, and on which it can be read.
    Device device;
    py::object stream_owner;

  private:
    void borrow_capsule(const char* operation, const char* name, const Library& library, const py::handle& object);
    void use_device(const char* operation, const char* name, const Library& library, const dlpack::Device& where);
    void release() noexcept;
    bool waits_ = false;  // until what reads the memory is done, before it is given back
    dlpack::VersionedTensor* versioned_ = nullptr;
    dlpack::LegacyTensor* legacy_ = nullptr;
};

}  // namespace bnfast::bindings
