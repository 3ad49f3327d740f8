// NumPy arrays as TensorViews, and new arrays like others.
#include "arrays.h"

#include <algorithm>

#include "bnfast/layout.h"
#include "output_memory.h"

namespace bnfast::bindings {
namespace {

// ml_dtypes registers bfloat16 when it is imported: its number is known at run time only.
int bfloat16_number() {
    static PyObject* type = nullptr;
    static int number = -1;
    if (number < 0) {
        const auto bfloat16 = py::reinterpret_borrow<py::object>(imported_once(type, "ml_dtypes", "bfloat16"));
        number = py::dtype::from_args(bfloat16).num();
    }
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

// '=' is how NumPy spells the order of this machine, but '<' or '>' may mean the same.
constexpr char kThisOrder = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>';

bool native_order(const py::dtype& dtype) {
    const char order = py::detail::array_descriptor_proxy(dtype.ptr())->byteorder;
    return order == '=' || order == '|' || order == kThisOrder;
}

// `object` as an array. Masked arrays are refused: their masks would be ignored.
py::array array_of(const char* operation, const char* name, const py::handle& object, const char* expected) {
    if (Py_TYPE(object.ptr()) != py::detail::npy_api::get().PyArray_Type_) {
        if (!py::isinstance<py::array>(object)) wrong_type(operation, name, object, expected);
        static PyObject* masked = nullptr;
        if (py::isinstance(object, imported_once(masked, "numpy.ma", "MaskedArray"))) {
            throw TypeError(std::string(operation) + ": " + name +
                            " is a masked array, expected its .data (masks are ignored: leave elements out by "
                            "where=~mask)");
        }
    }
    return py::reinterpret_borrow<py::array>(object);
}

constexpr int kFloat32Number = py::detail::npy_api::NPY_FLOAT_;
constexpr int kFloat64Number = py::detail::npy_api::NPY_DOUBLE_;
constexpr int kFloat16Number = 23;  // NPY_HALF

// A native dtype as NumPy itself spells it.
py::dtype as_usual(const py::dtype& dtype) {
    if (py::detail::array_descriptor_proxy(dtype.ptr())->byteorder != kThisOrder) return dtype;
    return py::reinterpret_steal<py::dtype>(dtype.attr("newbyteorder")("=").release());
}

}  // namespace

py::handle imported_once(PyObject*& slot, const char* module, const char* attribute) {
    if (slot == nullptr) slot = py::object(py::module_::import(module).attr(attribute)).release().ptr();
    return slot;
}

const TensorView& ArrayView::set(const py::array& array, DType dtype) {
    const int ndim = static_cast<int>(array.ndim());
    std::int64_t* memory = few_;
    if (ndim > kFewDims) {
        many_.reset(new std::int64_t[2 * static_cast<std::size_t>(ndim)]);
        memory = many_.get();
    }
    std::copy_n(array.shape(), ndim, memory);
    std::copy_n(array.strides(), ndim, memory + ndim);
    view_.data = const_cast<void*>(array.data());
    view_.shape = memory;
    view_.strides = memory + ndim;
    view_.ndim = ndim;
    view_.dtype = dtype;
    return view_;
}

const TensorView& ArrayView::bind(const char* operation, const char* name, const py::handle& object) {
    constexpr const char* kExpected = "a NumPy array of float32, float64, float16 or bfloat16 in native byte order";
    const py::array array = array_of(operation, name, object, kExpected);
    const py::dtype dtype = array.dtype();
    const int number = dtype.num();
    if (native_order(dtype)) {
        if (number == kFloat32Number) return set(array, DType::kFloat32);
        if (number == kFloat64Number) return set(array, DType::kFloat64);
        if (number == kFloat16Number) return set(array, DType::kFloat16);
        if (number == bfloat16_number()) return set(array, DType::kBFloat16);
    }
    wrong_type(operation, name, object, kExpected);
}

std::optional<TensorView> ArrayView::bind_optional(const char* operation, const char* name, const py::handle& object) {
    if (object.is_none()) return std::nullopt;
    return bind(operation, name, object);
}

const TensorView& ArrayView::bind_channels(const char* operation, const char* name, const py::handle& object) {
    const py::array array = array_of(operation, name, object, "a NumPy array of float32 or float64");
    const int number = array.dtype().num();
    if ((number != kFloat32Number && number != kFloat64Number) || !native_order(array.dtype())) {
        wrong_type(operation, name, object, "float32 or float64 in native byte order");
    }
    return set(array, number == kFloat32Number ? DType::kFloat32 : DType::kFloat64);
}

std::optional<TensorView> ArrayView::bind_optional_channels(const char* operation, const char* name,
                                                            const py::handle& object) {
    if (object.is_none()) return std::nullopt;
    return bind_channels(operation, name, object);
}

const TensorView& ArrayView::bind_output(const char* operation, const char* name, const py::handle& object) {
    bind(operation, name, object);
    if (!py::reinterpret_borrow<py::array>(object).writeable()) {
        throw ValueError(std::string(operation) + ": " + name + " is read-only, expected a writeable array");
    }
    return view_;
}

std::optional<TensorView> ArrayView::bind_where(const char* operation, const py::handle& object) {
    if (object.is_none()) return std::nullopt;
    constexpr const char* kExpected = "a NumPy array of bool";
    const py::array array = array_of(operation, "where", object, kExpected);
    if (array.dtype().num() != py::detail::npy_api::NPY_BOOL_) wrong_type(operation, "where", object, kExpected);
    return set(array, DType::kBool);
}

py::array empty_like(const py::array& x, const TensorView& view, const void* alike) {
    const std::size_t bytes = static_cast<std::size_t>(x.size()) * static_cast<std::size_t>(item_size(view.dtype));
    const py::dtype dtype = as_usual(x.dtype());
    if ((x.flags() & py::array::c_style) != 0 && bytes < kLargeOutput) {
        return py::array(dtype, py::array::ShapeContainer(view.shape, view.shape + view.ndim));
    }
    unsigned char dims[kMaxDims];
    memory_order(view, dims);
    std::vector<py::ssize_t> strides(static_cast<std::size_t>(view.ndim));
    py::ssize_t stride = static_cast<py::ssize_t>(item_size(view.dtype));
    for (int k = view.ndim - 1; k >= 0; --k) {
        strides[dims[k]] = stride;
        stride *= std::max<py::ssize_t>(static_cast<py::ssize_t>(view.shape[dims[k]]), 1);
    }
    const std::vector<py::ssize_t> shape(view.shape, view.shape + view.ndim);
    if (bytes < kLargeOutput) return py::array(dtype, shape, strides);
    const OutputMemory memory = take_output_memory(bytes, reinterpret_cast<std::uintptr_t>(alike) % 64);
    return py::array(dtype, shape, strides, memory.data, memory.owner);
}

py::array output_like(const char* operation, const py::handle& out, const py::array& x, const TensorView& x_view,
                      ArrayView& view) {
    if (!out.is_none()) {
        view.bind_output(operation, "out", out);
        return py::reinterpret_borrow<py::array>(out);
    }
    py::array fresh = empty_like(x, x_view);
    view.bind(operation, "out", fresh);
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

}  // namespace bnfast::bindings
