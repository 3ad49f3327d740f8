// Normalizations whose statistics are a sample's own: the entry of each operation.
#include <memory>

#include "bnfast/layout.h"
#include "context.h"
#include "forward_call.h"
#include "gil.h"
#include "register.h"

namespace bnfast::bindings {
namespace {

struct InstanceNormCall : ForwardCall {
    static constexpr const char* kName = "instance_norm";
    static constexpr auto kFields = std::tuple_cat(kForwardFields, kDropoutFields);
};

struct BackwardCall {
    static constexpr const char* kName = "norm_backward";
    py::handle dy, out = Py_None;
    SampleNormContext* ctx = nullptr;
    static constexpr auto kFields =
        std::make_tuple(required("dy", &BackwardCall::dy), required("ctx", &BackwardCall::ctx),
                        optional("out", &BackwardCall::out));
};

py::tuple instance_norm_entry(const InstanceNormCall& call) {
    const ForwardViews views(call.kName, call);
    const TensorView& x = views.inputs.x;
    auto context = std::make_unique<SampleNormContext>(call.x, size_or_zero(&instance_norm_state_size, x, call.axis));
    context->residual = py::reinterpret_borrow<py::object>(call.residual);
    ArrayView y_view;
    py::array y = output_like(call.kName, call.out, context->x, x, y_view);
    {
        const ReleasedGil released(elements_of(x));
        instance_norm(views.inputs, call, y_view.get(), context->state());
    }
    return py::make_tuple(std::move(y), std::move(context));
}

py::object backward_entry(const BackwardCall& call) {
    const SampleNormContext& context = *call.ctx;
    const BackwardViews views(call.kName, context, call.dy);
    BackwardResults results(call.kName, context, views, call.out);
    {
        const ReleasedGil released(elements_of(views.inputs.x));
        norm_backward(views.inputs, context.state(), results.gradients());
    }
    static PyObject* slot = nullptr;
    return results.take(context, imported_once(slot, "bnfast._norms", "NormGrads"));
}

}  // namespace

void register_norms(py::module_& m) {
    def_fast<&instance_norm_entry>(m);
    def_fast<&backward_entry>(m);
}

}  // namespace bnfast::bindings
