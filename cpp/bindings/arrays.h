// Arrays of Python, NumPy's and those of other libraries, as TensorViews; and new arrays like others.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bnfast/error.h"
#include "bnfast/memory.h"
#include "bnfast/tensor.h"
#include "library.h"
#include "streams.h"
#include "unfinished_array.h"

namespace bnfast::bindings {

// module.attribute, imported at the first call and kept in `slot`, a static pointer of the caller that the GIL guards.
// C++ would hold a lock while it initialised a static by an import: the thread could wait for the GIL inside the import
// while another one, which has the GIL, waits for that lock.
py::handle imported_once(PyObject*& slot, const char* module, const char* attribute);

struct Expected;  // what an argument may be

// An array as a view, with memory of its own for shape and strides: the array's may go away while kernels run, if
// another thread gives the array a new shape.
class ArrayView {
  public:
    ArrayView() = default;
    ArrayView(const ArrayView&) = delete;
    ArrayView& operator=(const ArrayView&) = delete;

    // `device` is that of the call, which runs after what an array's library has enqueued for it elsewhere.
    //
    // TypeError unless `object` is an array of float32, float64, float16 or bfloat16 in native byte order.
    const TensorView& bind(const char* operation, const char* name, const py::handle& object,
                           const Device& device = {});
    // The same; None is no view.
    std::optional<TensorView> bind_optional(const char* operation, const char* name, const py::handle& object,
                                            const Device& device);
    // Per-channel values: TypeError unless an array of float32 or float64. NumPy's are copied to the device of the
    // call.
    const TensorView& bind_channels(const char* operation, const char* name, const py::handle& object,
                                    const Device& device);
    std::optional<TensorView> bind_optional_channels(const char* operation, const char* name, const py::handle& object,
                                                     const Device& device);
    // An array that the call writes: ValueError unless it is writeable.
    const TensorView& bind_output(const char* operation, const char* name, const py::handle& object,
                                  const Device& device = {});
    // TypeError unless None or an array of bool.
    std::optional<TensorView> bind_where(const char* operation, const py::handle& object, const Device& device);

    const TensorView& get() const { return view_; }
    // The array's library; null for NumPy.
    const Library* library() const { return rare_ ? rare_->library : nullptr; }
    // What keeps the stream of the view's device alive.
    py::object stream_owner() const { return rare_ ? rare_->lent.stream_owner : py::object(); }

  private:
    friend class OutputArray;
    const TensorView& set(void* data, DType dtype, int ndim, const std::int64_t* shape, const std::int64_t* strides);
    const TensorView& set(const py::array& array, DType dtype);
    const TensorView& set_foreign(const char* operation, const char* name, const py::handle& object,
                                  const Expected& expected, const Device& device);
    void copy_to(const Device& device, const py::array& array);

    struct Rare {
        std::unique_ptr<std::int64_t[]> many;  // shape and strides that do not fit into few_
        const Library* library = nullptr;
        Lent lent;
        std::optional<UseOnStream> use;  // of what is lent
        Numbers copy;                    // memory of the device of the call, for values that NumPy has
    };
    Rare& rare();

    static constexpr int kFewDims = 8;
    TensorView view_;
    std::int64_t few_[2 * kFewDims];  // shape and strides of most arrays
    std::unique_ptr<Rare> rare_;
};

// The array that a call writes: `out`, or a new one.
class OutputArray {
  public:
    // A new array has the shape, dtype and order of elements in memory of the view of `array`, and is dense. It is of
    // the library of `kind`. A large one lies in cache lines as `alike` does, so that both can be written together.
    OutputArray(const char* operation, const py::handle& out, const ArrayView& kind, const py::handle& array,
                const TensorView& view, const void* alike = nullptr);
    const TensorView& view() const { return view_.get(); }
    // The array, when it holds its values. To be called once.
    py::object take();

  private:
    ArrayView view_;
    py::object array_;
    std::optional<UnfinishedArray> unfinished_;  // until it is one of its library
};

// Float64 numbers, on this device, as a new array of a library (null: NumPy): as they are, or rounded to float32. Each
// is divided by its divisor before, unless `divisors` is null.
struct NumberArray {
    const Library* library;
    Device device;
    py::object stream_owner;
    bool is_double;
    py::object of(const double* values, const double* divisors, const std::int64_t* shape, int ndim) const;
};

// The array itself if it is NumPy's; otherwise a copy that is. `view` is that of the array.
py::object as_numpy(const py::object& array, const ArrayView& view);
// A copy of NumPy's array in C order in the library, and on the device, of an array.
py::object copy_like(const TensorView& array, const ArrayView& like);

// A new array of these numbers. NumPy's own copy gives up the GIL, see gil.h.
template <class T>
py::array_t<T> new_array(const std::vector<T>& numbers) {
    py::array_t<T> array(static_cast<py::ssize_t>(numbers.size()));
    std::copy(numbers.begin(), numbers.end(), array.mutable_data());
    return array;
}

}  // namespace bnfast::bindings
