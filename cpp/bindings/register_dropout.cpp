// Dropout: forward and backward in one entry, masks, scaling.
#include <pybind11/stl.h>

#include <functional>
#include <numeric>

#include "arrays.h"
#include "bnfast/dropout.h"
#include "fast_call.h"
#include "gil.h"
#include "output_memory.h"
#include "register.h"

namespace bnfast::bindings {
namespace {

py::array dropout_entry(const char* operation, const py::object& x, double rate, std::uint64_t seed,
                        std::uint64_t offset, int mode, bool backward, const std::vector<int>& broadcast_axes,
                        const py::object& out) {
    const TensorView view = view_of(operation, backward ? "dy" : "x", x);
    TensorView y_view;
    py::array y = output_like(operation, out, py::reinterpret_borrow<py::array>(x), view, y_view);
    const DropoutOptions options{rate, seed, offset, static_cast<DropoutMode>(mode), broadcast_axes};
    const ReleasedGil released(elements_of(view));
    dropout(operation, view, options, backward, y_view);
    return y;
}

// A new array of bool in C order.
py::array empty_mask(const std::vector<std::int64_t>& shape) {
    const auto bytes = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
    if (static_cast<std::size_t>(bytes) < kLargeOutput) return py::array(py::dtype::of<bool>(), shape);
    const OutputMemory memory = take_output_memory(static_cast<std::size_t>(bytes), 0);
    return py::array(py::dtype::of<bool>(), shape, memory.data, memory.owner);
}

py::array mask_entry(const py::object& lengths, double rate, std::uint64_t seed, std::uint64_t offset,
                     const std::vector<int>& broadcast_axes) {
    const auto shape = py::cast<std::vector<std::int64_t>>(lengths);
    if (shape.size() > static_cast<std::size_t>(kMaxDims))
        throw ValueError("dropout_mask: shape has too many dimensions");
    py::array mask = empty_mask(shape);
    std::uint8_t* const data = static_cast<std::uint8_t*>(mask.mutable_data());
    const DropoutOptions options{rate, seed, offset, DropoutMode::kInverted, broadcast_axes};
    const ReleasedGil released;
    dropout_mask(shape, options, data);
    return mask;
}

py::array scale_entry(const char* operation, const char* name, const py::object& x, double factor,
                      const py::object& out) {
    const TensorView view = view_of(operation, name, x);
    TensorView y_view;
    py::array y = output_like(operation, out, py::reinterpret_borrow<py::array>(x), view, y_view);
    const ReleasedGil released(elements_of(view));
    scale(operation, view, factor, y_view);
    return y;
}

}  // namespace

void register_dropout(py::module_& m) {
    def_fast<&dropout_entry>(m, "dropout");
    def_fast<&mask_entry>(m, "dropout_mask");
    def_fast<&scale_entry>(m, "scale");
}

}  // namespace bnfast::bindings
