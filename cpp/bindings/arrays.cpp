// NumPy arrays as TensorViews, and new arrays like others.
#include "arrays.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "output_memory.h"

namespace bnfast::bindings {
namespace {

// ml_dtypes registers bfloat16 when it is imported: its number is known at run time only.
int bfloat16_number() {
    static const int number = [] {
        const py::object type = py::module_::import("ml_dtypes").attr("bfloat16");
        return py::dtype::from_args(type).num();
    }();
    return number;
}

std::string type_text(const py::handle& object) {
    if (py::isinstance<py::array>(object)) {
        return "dtype " + std::string(py::str(py::reinterpret_borrow<py::array>(object).dtype()));
    }
    return "type " + std::string(py::str(py::type::handle_of(object).attr("__name__")));
}

[[noreturn]] void wrong_type(const char* operation, const char* name, const py::handle& object, const char* expected) {
    throw TypeError(std::string(operation) + ": " + name + " has " + type_text(object) + ", expected " + expected);
}

bool native_order(const py::array& array) {
    const char order = py::detail::array_descriptor_proxy(array.dtype().ptr())->byteorder;
    return order == '=' || order == '|';
}

constexpr int kFloat32Number = py::detail::npy_api::NPY_FLOAT_;
constexpr int kFloat64Number = py::detail::npy_api::NPY_DOUBLE_;
constexpr int kFloat16Number = 23;  // NPY_HALF

template <class View>
void copy_shape(const py::array& array, View& view) {
    view.ndim = static_cast<int>(array.ndim());
    std::copy_n(array.shape(), array.ndim(), view.shape);
    std::copy_n(array.strides(), array.ndim(), view.strides);
}

}  // namespace

TensorView view_of(const char* operation, const char* name, const py::handle& object) {
    constexpr const char* kExpected = "a NumPy array of float32, float64, float16 or bfloat16 in native byte order";
    if (!py::isinstance<py::array>(object)) wrong_type(operation, name, object, kExpected);
    const py::array array = py::reinterpret_borrow<py::array>(object);
    TensorView view;
    const int number = array.dtype().num();
    if (number == kFloat32Number) {
        view.dtype = DType::kFloat32;
    } else if (number == kFloat64Number) {
        view.dtype = DType::kFloat64;
    } else if (number == kFloat16Number) {
        view.dtype = DType::kFloat16;
    } else if (number == bfloat16_number()) {
        view.dtype = DType::kBFloat16;
    } else {
        wrong_type(operation, name, object, kExpected);
    }
    if (!native_order(array)) wrong_type(operation, name, object, kExpected);
    view.data = const_cast<void*>(array.data());
    copy_shape(array, view);
    return view;
}

TensorView optional_view_of(const char* operation, const char* name, const py::handle& object) {
    return object.is_none() ? TensorView{} : view_of(operation, name, object);
}

TensorView channel_view_of(const char* operation, const char* name, const py::handle& object) {
    TensorView view;
    if (object.is_none()) return view;
    constexpr const char* kExpected = "float32 or float64 in native byte order";
    if (!py::isinstance<py::array>(object)) wrong_type(operation, name, object, kExpected);
    const py::array array = py::reinterpret_borrow<py::array>(object);
    const int number = array.dtype().num();
    if ((number != kFloat32Number && number != kFloat64Number) || !native_order(array)) {
        wrong_type(operation, name, object, kExpected);
    }
    view.dtype = number == kFloat32Number ? DType::kFloat32 : DType::kFloat64;
    view.data = const_cast<void*>(array.data());
    copy_shape(array, view);
    return view;
}

TensorView output_view_of(const char* operation, const char* name, const py::handle& object) {
    const TensorView view = view_of(operation, name, object);
    if (!py::reinterpret_borrow<py::array>(object).writeable()) {
        throw ValueError(std::string(operation) + ": " + name + " is read-only, expected a writeable array");
    }
    return view;
}

WhereView where_view_of(const char* operation, const py::handle& object) {
    WhereView view;
    if (object.is_none()) return view;
    constexpr const char* kExpected = "a NumPy array of bool";
    if (!py::isinstance<py::array>(object)) wrong_type(operation, "where", object, kExpected);
    const py::array array = py::reinterpret_borrow<py::array>(object);
    if (array.dtype().num() != py::detail::npy_api::NPY_BOOL_) wrong_type(operation, "where", object, kExpected);
    view.data = array.data();
    copy_shape(array, view);
    return view;
}

py::array empty_like(const py::array& x, const TensorView& view, const void* alike) {
    const std::size_t bytes = static_cast<std::size_t>(x.size()) * static_cast<std::size_t>(item_size(view.dtype));
    if ((x.flags() & py::array::c_style) != 0 && bytes < kLargeOutput) {
        return py::array(x.dtype(), py::array::ShapeContainer(view.shape, view.shape + view.ndim));
    }
    std::vector<int> dims(static_cast<std::size_t>(view.ndim));
    std::iota(dims.begin(), dims.end(), 0);
    std::stable_sort(dims.begin(), dims.end(),
                     [&](int a, int b) { return std::abs(view.strides[a]) > std::abs(view.strides[b]); });
    std::vector<py::ssize_t> strides(dims.size());
    py::ssize_t stride = static_cast<py::ssize_t>(item_size(view.dtype));
    for (auto d = dims.rbegin(); d != dims.rend(); ++d) {
        strides[static_cast<std::size_t>(*d)] = stride;
        stride *= std::max<py::ssize_t>(static_cast<py::ssize_t>(view.shape[*d]), 1);
    }
    const std::vector<py::ssize_t> shape(view.shape, view.shape + view.ndim);
    if (bytes < kLargeOutput) return py::array(x.dtype(), shape, strides);
    const OutputMemory memory = take_output_memory(bytes, reinterpret_cast<std::uintptr_t>(alike) % 64);
    return py::array(x.dtype(), shape, strides, memory.data, memory.owner);
}

py::array output_like(const char* operation, const py::object& out, const py::array& x, const TensorView& x_view,
                      TensorView& view) {
    if (!out.is_none()) {
        view = output_view_of(operation, "out", out);
        return py::reinterpret_borrow<py::array>(out);
    }
    py::array fresh = empty_like(x, x_view);
    view = view_of(operation, "out", fresh);
    return fresh;
}

py::array channel_array(const double* values, std::int64_t channels, bool is_double) {
    if (is_double) {
        py::array_t<double> array(channels);
        std::copy_n(values, channels, array.mutable_data());
        return array;
    }
    py::array_t<float> array(channels);
    std::transform(values, values + channels, array.mutable_data(), [](double v) { return static_cast<float>(v); });
    return array;
}

py::array_t<double> float64_array(const std::vector<double>& values) {
    return py::array_t<double>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::array_t<std::int64_t> count_array(const std::vector<double>& counts) {
    py::array_t<std::int64_t> array(static_cast<py::ssize_t>(counts.size()));
    std::transform(counts.begin(), counts.end(), array.mutable_data(),
                   [](double v) { return static_cast<std::int64_t>(v); });
    return array;
}

MaybeReleaseGil::MaybeReleaseGil(const TensorView& x) {
    constexpr std::int64_t kWorthwhile = 65536;  // elements; getting the GIL back may take a switch interval, 5 ms
    std::int64_t elements = 1;
    for (int d = 0; d < x.ndim; ++d) elements *= x.shape[d];
    if (elements >= kWorthwhile) release_.emplace();
}

}  // namespace bnfast::bindings
