// Arrays of other libraries, by DLPack: how their memory is read, and how a result becomes an array of theirs.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "bnfast/tensor.h"
#include "dlpack.h"

namespace bnfast::bindings {

namespace py = pybind11;

// How the arrays of one type are read and made. There is one for each type, which is never destroyed.
struct Library {
    const dlpack::Exchange* exchange = nullptr;  // or null where the type has only __dlpack__
    PyObject* from_dlpack = nullptr;             // needed where there is no exchange
    bool has_gradients = false;                  // arrays may be part of a graph that PyTorch differentiates
    bool immutable = false;                      // arrays are never written, though DLPack does not say so of them
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

    // TypeError where `object` cannot lend its memory, or describes something that no array can be.
    void borrow(const char* operation, const char* name, const Library& library, const py::handle& object);

    dlpack::Tensor tensor;
    bool read_only = false;

  private:
    void release() noexcept;
    dlpack::VersionedTensor* versioned_ = nullptr;
    dlpack::LegacyTensor* legacy_ = nullptr;
};

// Memory for a new array of another library: dense, with the given shape, and strides in bytes. It becomes that array
// when it holds its values, since what a library calls an array may not change.
class UnfinishedArray {
  public:
    UnfinishedArray() = default;
    // `alike`: see OutputArray.
    UnfinishedArray(const TensorView& described, const void* alike);
    void* data() const;
    // To be called once.
    py::object finish(const Library& library);

    struct Parts;

  private:
    struct Delete {
        void operator()(Parts* parts) const noexcept;
    };
    std::unique_ptr<Parts, Delete> parts_;
};

}  // namespace bnfast::bindings
