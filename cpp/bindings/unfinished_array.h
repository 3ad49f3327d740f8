// Memory for a new array of another library, which becomes that array when it holds its values.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "bnfast/tensor.h"
#include "library.h"

namespace bnfast::bindings {

// Dense memory on the device of `described`, with its shape, and strides in bytes. It becomes an array later, since
// what a library calls an array may not change.
class UnfinishedArray {
  public:
    UnfinishedArray() = default;
    // `alike`: see OutputArray. On a GPU memory is the library's own where that can be had by DLPack, and is otherwise
    // given back in the order of the device's stream, which `stream_owner` keeps alive.
    UnfinishedArray(const Library& library, const TensorView& described, const void* alike = nullptr,
                    const py::object& stream_owner = {});
    void* data() const;
    // To be called once.
    py::object finish();

    struct Parts;

  private:
    struct Delete {
        void operator()(Parts* parts) const noexcept;
    };
    const Library* library_ = nullptr;
    std::unique_ptr<Parts, Delete> parts_;
};

}  // namespace bnfast::bindings
