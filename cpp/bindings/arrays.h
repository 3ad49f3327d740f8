// NumPy arrays as TensorViews, and new arrays like others.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bnfast/error.h"
#include "bnfast/tensor.h"

namespace bnfast::bindings {

namespace py = pybind11;

// module.attribute, imported at the first call and kept in `slot`, a static pointer of the caller that the GIL guards.
// C++ would hold a lock while it initialised a static by an import: the thread could wait for the GIL inside the import
// while another one, which has the GIL, waits for that lock.
py::handle imported_once(PyObject*& slot, const char* module, const char* attribute);

// A NumPy array as a view, with memory of its own for shape and strides: the array's may go away while kernels run, if
// another thread gives the array a new shape.
class ArrayView {
  public:
    ArrayView() = default;
    ArrayView(const ArrayView&) = delete;
    ArrayView& operator=(const ArrayView&) = delete;

    // TypeError unless `object` is an array of float32, float64, float16 or bfloat16 in native byte order.
    const TensorView& bind(const char* operation, const char* name, const py::handle& object);
    // The same; None is no view.
    std::optional<TensorView> bind_optional(const char* operation, const char* name, const py::handle& object);
    // Per-channel values: TypeError unless an array of float32 or float64.
    const TensorView& bind_channels(const char* operation, const char* name, const py::handle& object);
    std::optional<TensorView> bind_optional_channels(const char* operation, const char* name, const py::handle& object);
    // An array that the call writes: ValueError unless it is writeable.
    const TensorView& bind_output(const char* operation, const char* name, const py::handle& object);
    // TypeError unless None or an array of bool.
    std::optional<TensorView> bind_where(const char* operation, const py::handle& object);

    const TensorView& get() const { return view_; }

  private:
    const TensorView& set(const py::array& array, DType dtype);

    static constexpr int kFewDims = 8;
    TensorView view_;
    std::int64_t few_[2 * kFewDims];  // shape and strides of most arrays
    std::unique_ptr<std::int64_t[]> many_;
};

// The array to write and its view: `out`, or a new array like x.
py::array output_like(const char* operation, const py::handle& out, const py::array& x, const TensorView& x_view,
                      ArrayView& view);

// A new array of x's shape, dtype and order of elements in memory, dense. A large one lies in cache lines as `alike`
// does, so that both can be written together.
py::array empty_like(const py::array& x, const TensorView& view, const void* alike = nullptr);

// Per-channel values as a new array: float64 as they are, float32 rounded.
py::array channel_array(const double* values, std::int64_t channels, bool is_double);

// A new array of these numbers. NumPy's own copy gives up the GIL, see gil.h.
template <class T>
py::array_t<T> new_array(const std::vector<T>& numbers) {
    py::array_t<T> array(static_cast<py::ssize_t>(numbers.size()));
    std::copy(numbers.begin(), numbers.end(), array.mutable_data());
    return array;
}

}  // namespace bnfast::bindings
