// NumPy arrays as TensorViews, and new arrays like others.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "bnfast/batch_norm.h"
#include "bnfast/error.h"
#include "bnfast/tensor.h"

namespace bnfast::bindings {

namespace py = pybind11;

// module.attribute, which stays in `slot`. The GIL guards that: the lock of a static's initialisation would be held by
// a thread that waits for the GIL inside the import.
py::handle imported_once(PyObject*& slot, const char* module, const char* attribute);

// TypeError unless `object` is an array of float32, float64, float16 or bfloat16 in native byte order.
TensorView view_of(const char* operation, const char* name, const py::handle& object);
// As view_of; None is a view without data.
TensorView optional_view_of(const char* operation, const char* name, const py::handle& object);
// Per-channel values: TypeError unless None or an array of float32 or float64.
TensorView channel_view_of(const char* operation, const char* name, const py::handle& object);
// An array that the call writes: ValueError unless it is writeable.
TensorView output_view_of(const char* operation, const char* name, const py::handle& object);
WhereView where_view_of(const char* operation, const py::handle& object);

std::int64_t elements_of(const TensorView& view);

// The array to write and its view: `out`, or a new array like x.
py::array output_like(const char* operation, const py::handle& out, const py::array& x, const TensorView& x_view,
                      TensorView& view);

// A new array of x's shape, dtype and order of elements in memory, dense. A large one lies in cache lines as `alike`
// does, so that both can be written together.
py::array empty_like(const py::array& x, const TensorView& view, const void* alike = nullptr);

// Per-channel values as a new array: float64 as they are, float32 rounded.
py::array channel_array(const double* values, std::int64_t channels, bool is_double);
py::array_t<double> float64_array(const std::vector<double>& values);
py::array_t<std::int64_t> count_array(const std::vector<double>& counts);

}  // namespace bnfast::bindings
