// Arrays of Python, NumPy's and those of other libraries, as TensorViews; and new arrays like others.
#include "arrays.h"

#include <algorithm>

#include "bnfast/layout.h"
#include "gil.h"
#include "output_memory.h"
#include "streams.h"

namespace bnfast::bindings {

// What an argument may be.
struct Expected {
    const char* text;
    bool (*has)(DType);
};
constexpr Expected kElements{"a NumPy or DLPack array of float32, float64, float16 or bfloat16 in native byte order",
                             [](DType dtype) { return dtype != DType::kBool; }};
constexpr Expected kChannels{"a NumPy or DLPack array of float32 or float64",
                             [](DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kFloat64; }};
constexpr Expected kMask{"a NumPy or DLPack array of bool", [](DType dtype) { return dtype == DType::kBool; }};

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
    if (py::hasattr(object, "__dlpack__") && py::hasattr(object, "dtype")) {  // as NumPy's arrays have, too
        return "dtype " + std::string(py::str(object.attr("dtype")));
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

// Whether `object` is NumPy's. Masked arrays are refused: their masks would be ignored.
bool is_numpy(const char* operation, const char* name, const py::handle& object) {
    if (Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_) return true;
    if (!py::isinstance<py::array>(object)) return false;
    static PyObject* masked = nullptr;
    if (py::isinstance(object, imported_once(masked, "numpy.ma", "MaskedArray"))) {
        throw TypeError(std::string(operation) + ": " + name +
                        " is a masked array, expected its .data (masks are ignored: leave elements out by "
                        "where=~mask)");
    }
    return true;
}

std::optional<DType> dtype_of(const dlpack::DataType& type) {
    if (type.code == dlpack::kFloat && type.bits == 32) return DType::kFloat32;
    if (type.code == dlpack::kFloat && type.bits == 64) return DType::kFloat64;
    if (type.code == dlpack::kFloat && type.bits == 16) return DType::kFloat16;
    if (type.code == dlpack::kBFloat && type.bits == 16) return DType::kBFloat16;
    if (type.code == dlpack::kBool && type.bits == 8) return DType::kBool;
    return std::nullopt;
}

constexpr int kFloat32Number = py::detail::npy_api::NPY_FLOAT_;
constexpr int kFloat64Number = py::detail::npy_api::NPY_DOUBLE_;
constexpr int kFloat16Number = 23;  // NPY_HALF

// A native dtype as NumPy itself spells it.
py::dtype as_usual(const py::dtype& dtype) {
    if (py::detail::array_descriptor_proxy(dtype.ptr())->byteorder != kThisOrder) return dtype;
    return py::reinterpret_steal<py::dtype>(dtype.attr("newbyteorder")("=").release());
}

py::dtype numpy_dtype(DType dtype) {
    switch (dtype) {
        case DType::kFloat32: return py::dtype(kFloat32Number);
        case DType::kFloat64: return py::dtype(kFloat64Number);
        case DType::kFloat16: return py::dtype(kFloat16Number);
        case DType::kBFloat16: return py::dtype(bfloat16_number());
        default: return py::dtype::of<bool>();
    }
}

bool fits_numpy_call(const py::handle& array, std::size_t bytes) {
    return Py_TYPE(array.ptr()) == py::detail::npy_api::get().PyArray_Type_ && bytes < kLargeOutput &&
           (py::reinterpret_borrow<py::array>(array).flags() & py::array::c_style) != 0;
}

// Strides in bytes of a dense array with the shape, and the order of elements in memory, of `view`.
void dense_strides(const TensorView& view, std::int64_t* strides) {
    unsigned char dims[kMaxDims];
    memory_order(view, dims);
    std::int64_t stride = item_size(view.dtype);
    for (int k = view.ndim - 1; k >= 0; --k) {
        strides[dims[k]] = stride;
        stride *= std::max<std::int64_t>(view.shape[dims[k]], 1);
    }
}

// A new dense array of NumPy, like `array` and its view.
py::array empty_like(const py::handle& array, const TensorView& view, const void* alike) {
    const auto bytes = static_cast<std::size_t>(elements_of(view) * item_size(view.dtype));
    const py::dtype dtype = py::isinstance<py::array>(array)
                                ? as_usual(py::reinterpret_borrow<py::array>(array).dtype())
                                : numpy_dtype(view.dtype);
    if (fits_numpy_call(array, bytes)) {
        return py::array(dtype, py::array::ShapeContainer(view.shape, view.shape + view.ndim));
    }
    std::int64_t dense[kMaxDims];
    dense_strides(view, dense);
    const std::vector<py::ssize_t> shape(view.shape, view.shape + view.ndim), strides(dense, dense + view.ndim);
    if (bytes < kLargeOutput) return py::array(dtype, shape, strides);
    const OutputMemory memory = take_output_memory(bytes, reinterpret_cast<std::uintptr_t>(alike) % kLineBytes);
    return py::array(dtype, shape, strides, memory.data, memory.owner);
}

}  // namespace

py::handle imported_once(PyObject*& slot, const char* module, const char* attribute) {
    if (slot == nullptr) slot = py::object(py::module_::import(module).attr(attribute)).release().ptr();
    return slot;
}

// --- views ------------------------------------------------------------------------------------------------------

ArrayView::Rare& ArrayView::rare() {
    if (!rare_) rare_ = std::make_unique<Rare>();
    return *rare_;
}

const TensorView& ArrayView::set(void* data, DType dtype, int ndim, const std::int64_t* shape,
                                 const std::int64_t* strides) {
    std::int64_t* memory = few_;
    if (ndim > kFewDims) {
        rare().many.reset(new std::int64_t[2 * static_cast<std::size_t>(ndim)]);
        memory = rare().many.get();
    }
    std::copy_n(shape, ndim, memory);
    std::copy_n(strides, ndim, memory + ndim);
    view_.data = data;
    view_.shape = memory;
    view_.strides = memory + ndim;
    view_.ndim = ndim;
    view_.dtype = dtype;
    return view_;
}

const TensorView& ArrayView::set(const py::array& array, DType dtype) {
    static_assert(sizeof(py::ssize_t) == sizeof(std::int64_t));
    return set(const_cast<void*>(array.data()), dtype, static_cast<int>(array.ndim()),
               reinterpret_cast<const std::int64_t*>(array.shape()),
               reinterpret_cast<const std::int64_t*>(array.strides()));
}

const TensorView& ArrayView::set_foreign(const char* operation, const char* name, const py::handle& object,
                                         const Expected& expected, const Device& device) {
    const Library* const library = library_of(operation, name, object);
    if (library == nullptr) wrong_type(operation, name, object, expected.text);
    Lent& lent = rare().lent;
    lent.borrow(operation, name, *library, object);
    const dlpack::Tensor& t = lent.tensor;
    const std::optional<DType> dtype = dtype_of(t.dtype);
    if (!dtype || !expected.has(*dtype)) wrong_type(operation, name, object, expected.text);
    std::int64_t strides[kMaxDims];
    std::int64_t stride = item_size(*dtype);
    for (int k = t.ndim - 1; k >= 0; --k) {
        strides[k] = t.strides != nullptr ? t.strides[k] * item_size(*dtype) : stride;
        stride *= t.shape[k];
    }
    rare().library = library;
    view_.device = lent.device;
    if (lent.device.type != Device::Type::kCpu) rare().use.emplace(lent.device, device);
    return set(static_cast<char*>(t.data) + t.byte_offset, *dtype, t.ndim, t.shape, strides);
}

void ArrayView::copy_to(const Device& device, const py::array& array) {
    const py::array dense = py::array::ensure(array, py::array::c_style);
    set(dense, view_.dtype);
    const auto bytes = static_cast<std::size_t>(dense.nbytes());
    rare().copy = new_numbers(static_cast<std::int64_t>((bytes + sizeof(double) - 1) / sizeof(double)), device);
    view_.data = rare().copy.get();
    view_.device = device;
    copy_from_host(device, view_.data, dense.data(), bytes);
}

const TensorView& ArrayView::bind(const char* operation, const char* name, const py::handle& object,
                                  const Device& device) {
    if (!is_numpy(operation, name, object)) return set_foreign(operation, name, object, kElements, device);
    const auto array = py::reinterpret_borrow<py::array>(object);
    const py::dtype dtype = array.dtype();
    const int number = dtype.num();
    if (native_order(dtype)) {
        if (number == kFloat32Number) return set(array, DType::kFloat32);
        if (number == kFloat64Number) return set(array, DType::kFloat64);
        if (number == kFloat16Number) return set(array, DType::kFloat16);
        if (number == bfloat16_number()) return set(array, DType::kBFloat16);
    }
    wrong_type(operation, name, object, kElements.text);
}

std::optional<TensorView> ArrayView::bind_optional(const char* operation, const char* name, const py::handle& object,
                                                   const Device& device) {
    if (object.is_none()) return std::nullopt;
    return bind(operation, name, object, device);
}

const TensorView& ArrayView::bind_channels(const char* operation, const char* name, const py::handle& object,
                                           const Device& device) {
    if (!is_numpy(operation, name, object)) return set_foreign(operation, name, object, kChannels, device);
    const auto array = py::reinterpret_borrow<py::array>(object);
    const int number = array.dtype().num();
    if ((number != kFloat32Number && number != kFloat64Number) || !native_order(array.dtype())) {
        wrong_type(operation, name, object, "float32 or float64 in native byte order");
    }
    set(array, number == kFloat32Number ? DType::kFloat32 : DType::kFloat64);
    if (device.type != Device::Type::kCpu) copy_to(device, array);
    return view_;
}

std::optional<TensorView> ArrayView::bind_optional_channels(const char* operation, const char* name,
                                                            const py::handle& object, const Device& device) {
    if (object.is_none()) return std::nullopt;
    return bind_channels(operation, name, object, device);
}

const TensorView& ArrayView::bind_output(const char* operation, const char* name, const py::handle& object,
                                         const Device& device) {
    bind(operation, name, object, device);
    const bool writeable =
        library() != nullptr ? !rare_->lent.read_only : py::reinterpret_borrow<py::array>(object).writeable();
    if (!writeable) {
        throw ValueError(std::string(operation) + ": " + name + " is read-only, expected a writeable array");
    }
    return view_;
}

std::optional<TensorView> ArrayView::bind_where(const char* operation, const py::handle& object, const Device& device) {
    if (object.is_none()) return std::nullopt;
    if (!is_numpy(operation, "where", object)) return set_foreign(operation, "where", object, kMask, device);
    const auto array = py::reinterpret_borrow<py::array>(object);
    if (array.dtype().num() != py::detail::npy_api::NPY_BOOL_) wrong_type(operation, "where", object, kMask.text);
    return set(array, DType::kBool);
}

// --- new arrays -------------------------------------------------------------------------------------------------

OutputArray::OutputArray(const char* operation, const py::handle& out, const ArrayView& kind, const py::handle& array,
                         const TensorView& view, const void* alike) {
    if (!out.is_none()) {
        view_.bind_output(operation, "out", out, view.device);
        array_ = py::reinterpret_borrow<py::object>(out);
        return;
    }
    if (kind.library() == nullptr) {
        array_ = empty_like(array, view, alike);
        view_.bind(operation, "out", array_);
        return;
    }
    std::int64_t strides[kMaxDims];
    dense_strides(view, strides);
    TensorView described = view;
    described.strides = strides;
    unfinished_.emplace(*kind.library(), described, alike, kind.stream_owner());
    view_.set(unfinished_->data(), view.dtype, view.ndim, view.shape, strides);
    view_.view_.device = view.device;
}

py::object OutputArray::take() {
    if (unfinished_) return unfinished_->finish();
    if (view_.library() != nullptr) report_write(*view_.library(), array_);
    return std::move(array_);
}

namespace {

template <class T>
void round_on_host(const double* values, const double* divisors, std::int64_t count, void* out) {
    T* const rounded = static_cast<T*>(out);
    if (divisors == nullptr) {
        std::transform(values, values + count, rounded, [](double v) { return static_cast<T>(v); });
    } else {
        std::transform(values, values + count, divisors, rounded,
                       [](double v, double d) { return static_cast<T>(v / d); });
    }
}

}  // namespace

py::object NumberArray::of(const double* values, const double* divisors, const std::int64_t* shape, int ndim) const {
    TensorView view;
    view.shape = shape;
    view.ndim = ndim;
    view.dtype = is_double ? DType::kFloat64 : DType::kFloat32;
    view.device = device;
    const auto fill = [&](void* data) {
        view.data = data;
        if (device.type != Device::Type::kCpu) return store_numbers(values, divisors, view);
        const std::int64_t count = elements_of(view);
        if (is_double) return round_on_host<double>(values, divisors, count, data);
        round_on_host<float>(values, divisors, count, data);
    };
    if (library == nullptr) {
        py::array array(numpy_dtype(view.dtype), py::array::ShapeContainer(shape, shape + ndim));
        fill(array.mutable_data());
        return std::move(array);
    }
    std::int64_t strides[kMaxDims];
    std::int64_t stride = item_size(view.dtype);
    for (int k = ndim - 1; k >= 0; stride *= shape[k--]) strides[k] = stride;
    view.strides = strides;
    UnfinishedArray array(*library, view, nullptr, stream_owner);
    fill(array.data());
    return array.finish();
}

py::object as_numpy(const py::object& array, const ArrayView& view) {
    if (view.library() == nullptr) return array;
    const TensorView& v = view.get();
    const std::vector<py::ssize_t> shape(v.shape, v.shape + v.ndim), strides(v.strides, v.strides + v.ndim);
    if (v.device.type == Device::Type::kCpu) return py::array(numpy_dtype(v.dtype), shape, strides, v.data);
    // All that lies between the first and the last element, and then those that are the array's.
    std::int64_t before = 0, bytes = elements_of(v) == 0 ? 0 : item_size(v.dtype);
    for (int d = 0; bytes > 0 && d < v.ndim; ++d) {
        const std::int64_t reach = v.strides[d] * (v.shape[d] - 1);
        before -= std::min<std::int64_t>(reach, 0);
        bytes += std::abs(reach);
    }
    std::vector<char> memory(static_cast<std::size_t>(bytes));
    {
        const ReleasedGil released;
        copy_to_host(v.device, memory.data(), static_cast<const char*>(v.data) - before, memory.size());
    }
    return py::array(numpy_dtype(v.dtype), shape, strides, memory.data() + before);
}

py::object copy_like(const TensorView& array, const ArrayView& like) {
    TensorView described = array;
    described.device = like.get().device;
    UnfinishedArray copy(*like.library(), described, nullptr, like.stream_owner());
    copy_from_host(described.device, copy.data(), array.data,
                   static_cast<std::size_t>(elements_of(array) * item_size(array.dtype)));
    return copy.finish();
}

}  // namespace bnfast::bindings
