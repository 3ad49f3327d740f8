// Dropout: forward and backward in one entry, masks, scaling.
#include <pybind11/stl.h>

#include "arrays.h"
#include "bnfast/dropout.h"
#include "fast_call.h"
#include "gil.h"
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

py::array mask_entry(const std::vector<std::int64_t>& shape, double rate, std::uint64_t seed, std::uint64_t offset,
                     std::vector<int> broadcast_axes) {
    if (shape.size() > static_cast<std::size_t>(kMaxDims))
        throw ValueError("dropout_mask: shape has too many dimensions");
    py::array mask(py::dtype::of<bool>(), std::vector<py::ssize_t>(shape.begin(), shape.end()));
    std::uint8_t* const data = static_cast<std::uint8_t*>(mask.mutable_data());
    const DropoutOptions options{rate, seed, offset, DropoutMode::kInverted, std::move(broadcast_axes)};
    const ReleasedGil released;
    dropout_mask(shape, options, data);
    return mask;
}

py::array scale_entry(const char* operation, const py::object& x, double factor, const py::object& out) {
    const TensorView view = view_of(operation, "x", x);
    TensorView y_view;
    py::array y = output_like(operation, out, py::reinterpret_borrow<py::array>(x), view, y_view);
    const ReleasedGil released(elements_of(view));
    scale(operation, view, factor, y_view);
    return y;
}

}  // namespace

void register_dropout(py::module_& m) {
    def_fast<&dropout_entry>(m, "dropout");
    m.def("dropout_mask", &mask_entry);
    def_fast<&scale_entry>(m, "scale");
}

}  // namespace bnfast::bindings
