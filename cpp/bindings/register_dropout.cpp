// Dropout: forward and backward, the mask, and the expectation that takes its place in evaluation.
#include <pybind11/stl.h>

#include <functional>
#include <numeric>

#include "arrays.h"
#include "bnfast/dropout.h"
#include "bnfast/layout.h"
#include "fast_call.h"
#include "gil.h"
#include "output_memory.h"
#include "register.h"

namespace bnfast::bindings {
namespace {

constexpr auto kMaskFields =
    std::make_tuple(required("rate", &DropoutOptions::rate), required("seed", &DropoutOptions::seed),
                    required("offset", &DropoutOptions::offset),
                    required("broadcast_axes", &DropoutOptions::broadcast_axes));

struct DropoutCall : DropoutOptions {
    static constexpr const char* kName = "dropout";
    py::handle x, out = Py_None;
    static constexpr auto kFields =
        std::tuple_cat(std::make_tuple(required("x", &DropoutCall::x), required("mode", &DropoutCall::mode),
                                       optional("out", &DropoutCall::out)),
                       kMaskFields);
};

struct BackwardCall : DropoutOptions {
    static constexpr const char* kName = "dropout_backward";
    py::handle dy, out = Py_None;
    static constexpr auto kFields =
        std::tuple_cat(std::make_tuple(required("dy", &BackwardCall::dy), required("mode", &BackwardCall::mode),
                                       optional("out", &BackwardCall::out)),
                       kMaskFields);
};

struct MaskCall : DropoutOptions {
    static constexpr const char* kName = "dropout_mask";
    py::handle shape;
    static constexpr auto kFields = std::tuple_cat(std::make_tuple(required("shape", &MaskCall::shape)), kMaskFields);
};

struct InferenceCall {
    static constexpr const char* kName = "dropout_inference";
    py::handle x, out = Py_None;
    double rate = 0.5;
    DropoutMode mode = DropoutMode::kClassic;
    static constexpr auto kFields =
        std::make_tuple(required("x", &InferenceCall::x), required("rate", &InferenceCall::rate),
                        required("mode", &InferenceCall::mode), optional("out", &InferenceCall::out));
};

struct InferenceBackwardCall {
    static constexpr const char* kName = "dropout_inference_backward";
    py::handle dy;
    double rate = 0.5;
    DropoutMode mode = DropoutMode::kClassic;
    static constexpr auto kFields =
        std::make_tuple(required("dy", &InferenceBackwardCall::dy), required("rate", &InferenceBackwardCall::rate),
                        required("mode", &InferenceBackwardCall::mode));
};

// The result of compute(x, y) for an array x of the argument `name`, in y, which is `out` or a new array.
template <class F>
py::object map_array(const char* operation, const char* name, const py::handle& x, const py::handle& out, F compute) {
    ArrayView x_view;
    const TensorView& view = x_view.bind(operation, name, x);
    OutputArray y(operation, out, x_view, x, view);
    {
        const ReleasedGil released(elements_of(view));
        compute(view, y.view());
    }
    return y.take();
}

py::object dropout_entry(const DropoutCall& call) {
    return map_array(call.kName, "x", call.x, call.out,
                     [&](const TensorView& x, const TensorView& y) { dropout(x, call, y); });
}

py::object backward_entry(const BackwardCall& call) {
    return map_array(call.kName, "dy", call.dy, call.out,
                     [&](const TensorView& dy, const TensorView& dx) { dropout_backward(dy, call, dx); });
}

py::object inference_entry(const InferenceCall& call) {
    return map_array(call.kName, "x", call.x, call.out,
                     [&](const TensorView& x, const TensorView& y) { dropout_inference(x, call.rate, call.mode, y); });
}

py::object inference_backward_entry(const InferenceBackwardCall& call) {
    return map_array(call.kName, "dy", call.dy, py::none(), [&](const TensorView& dy, const TensorView& dx) {
        dropout_inference_backward(dy, call.rate, call.mode, dx);
    });
}

// A new array of bool in C order.
py::array empty_mask(const std::vector<std::int64_t>& shape) {
    const auto bytes = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
    if (static_cast<std::size_t>(bytes) < kLargeOutput) return py::array(py::dtype::of<bool>(), shape);
    const OutputMemory memory = take_output_memory(static_cast<std::size_t>(bytes), 0);
    return py::array(py::dtype::of<bool>(), shape, memory.data, memory.owner);
}

py::array mask_entry(const MaskCall& call) {
    const auto shape = py::cast<std::vector<std::int64_t>>(call.shape);
    if (shape.size() > static_cast<std::size_t>(kMaxDims)) {
        throw ValueError("dropout_mask: shape has too many dimensions");
    }
    py::array mask = empty_mask(shape);
    std::uint8_t* const data = static_cast<std::uint8_t*>(mask.mutable_data());
    const ReleasedGil released;
    dropout_mask(shape, call, data);
    return mask;
}

}  // namespace

void register_dropout(py::module_& m) {
    def_fast<&dropout_entry>(m);
    def_fast<&backward_entry>(m);
    def_fast<&inference_entry>(m);
    def_fast<&inference_backward_entry>(m);
    def_fast<&mask_entry>(m);
}

}  // namespace bnfast::bindings
