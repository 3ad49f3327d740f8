// Normalizations whose statistics are a sample's own: the entry of each operation.
#include <memory>

#include "bnfast/layout.h"
#include "context.h"
#include "forward_call.h"
#include "gil.h"
#include "register.h"

namespace bnfast::bindings {

// Axes as Python has them: a number, or a tuple of them.
struct Axes {
    std::vector<int> numbers;
};
template <>
struct Argument<Axes> {
    static Axes from(const char* operation, const char* name, PyObject* object) {
        if (PyTuple_Check(object)) return {ints_argument(operation, name, object)};
        return {{int_argument(operation, name, object)}};
    }
};

namespace {

struct InstanceNormCall : ForwardCall {
    static constexpr const char* kName = "instance_norm";
    static constexpr auto kFields = std::tuple_cat(kForwardFields, kDropoutFields);
};

struct GroupNormCall : ForwardCall {
    static constexpr const char* kName = "group_norm";
    int num_groups = 0;
    static constexpr auto kFields = std::tuple_cat(kForwardFields, kDropoutFields,
                                                   std::make_tuple(required("num_groups", &GroupNormCall::num_groups)));
};

// Over the last axes, which `axis` lists in order.
struct LastAxesCall : ForwardCall {
    Axes axes{{-1}};
    static constexpr auto kFields =
        std::tuple_cat(std::make_tuple(required("x", &LastAxesCall::x), optional("gamma", &LastAxesCall::gamma),
                                       optional("beta", &LastAxesCall::beta), optional("axis", &LastAxesCall::axes),
                                       optional("eps", &LastAxesCall::eps),
                                       optional("residual", &LastAxesCall::residual),
                                       optional("activation", &LastAxesCall::activation),
                                       optional("activation_slope", &LastAxesCall::activation_slope),
                                       optional("out", &LastAxesCall::out)),
                       kDropoutFields);
};
struct LayerNormCall : LastAxesCall {
    static constexpr const char* kName = "layer_norm";
};
struct RmsNormCall : LastAxesCall {
    static constexpr const char* kName = "rms_norm";
};

struct BackwardCall {
    static constexpr const char* kName = "norm_backward";
    py::handle dy, dh = Py_None, out = Py_None, x = Py_None, residual = Py_None;
    SampleNormContext* ctx = nullptr;
    static constexpr auto kFields =
        std::make_tuple(required("dy", &BackwardCall::dy), required("ctx", &BackwardCall::ctx),
                        optional("dh", &BackwardCall::dh), optional("out", &BackwardCall::out),
                        optional("x", &BackwardCall::x), optional("residual", &BackwardCall::residual));
};

// A call with a group or each channel by itself: `norm` computes it, with a state of so many numbers.
template <class Call, class Norm>
py::tuple over_groups(const Call& call, const ForwardViews& views, std::int64_t state_size, const Norm& norm) {
    const TensorView& x = views.inputs.x;
    auto context = std::make_unique<SampleNormContext>(call.x, views.x, state_size);
    context->residual = py::reinterpret_borrow<py::object>(call.residual);
    OutputArray y(call.kName, call.out, views.x, call.x, x);
    {
        const ReleasedGil released(elements_of(x));
        norm(y.view(), context->state());
    }
    return py::make_tuple(y.take(), std::move(context));
}

py::tuple instance_norm_entry(const InstanceNormCall& call) {
    const ForwardViews views(call.kName, call);
    const std::int64_t size = size_or_zero(&instance_norm_state_size, views.inputs.x, call.axis);
    return over_groups(call, views, size,
                       [&](const TensorView& y, NormState& state) { instance_norm(views.inputs, call, y, state); });
}

py::tuple group_norm_entry(const GroupNormCall& call) {
    const ForwardViews views(call.kName, call);
    const auto size_of = [&](const TensorView& x, int axis) { return group_norm_state_size(x, call.num_groups, axis); };
    const std::int64_t size = size_or_zero(size_of, views.inputs.x, call.axis);
    return over_groups(call, views, size, [&](const TensorView& y, NormState& state) {
        group_norm(views.inputs, call.num_groups, call, y, state);
    });
}

// The first of the axes; ValueError unless they are the last ones of x, in order.
int first_of_last_axes(const char* operation, const std::vector<int>& axes, const TensorView& x) {
    const int count = static_cast<int>(axes.size());
    bool last = count > 0 && count <= x.ndim;
    for (int k = 0; last && k < count; ++k) {
        const int axis = axes[static_cast<std::size_t>(k)];
        last = (axis < 0 ? axis + x.ndim : axis) == x.ndim - count + k;
    }
    if (last) return x.ndim - count;
    std::string got;
    for (const int axis : axes) got += (got.empty() ? "" : ", ") + std::to_string(axis);
    throw ValueError(std::string(operation) + ": axis is (" + got + "), expected the last axes in order, as -1 or " +
                     "(-2, -1), of x with " + std::to_string(x.ndim) + " dimensions");
}

template <class Call, class Norm>
py::tuple over_last_axes(const Call& call, const Norm& norm) {
    const ForwardViews views(call.kName, call);
    const TensorView& x = views.inputs.x;
    const NormOptions& as_given = call;
    NormOptions options = as_given;
    options.axis = first_of_last_axes(call.kName, call.axes.numbers, x);
    const bool has_prologue = !call.residual.is_none() || call.dropout != 0;
    OutputArray y(call.kName, call.out, views.x, call.x, x);
    std::optional<OutputArray> h;
    std::optional<TensorView> h_view;
    if (has_prologue) h_view = h.emplace(call.kName, py::none(), views.x, call.x, x, y.view().data).view();
    const std::int64_t size = size_or_zero(&layer_norm_state_size, x, options.axis);
    auto context = std::make_unique<SampleNormContext>(call.x, views.x, size);
    {
        const ReleasedGil released(elements_of(x));
        norm(views.inputs, options, y.view(), h_view, context->state());
    }
    if (h) context->x = h->take();
    return py::make_tuple(y.take(), std::move(context));
}

py::tuple layer_norm_entry(const LayerNormCall& call) { return over_last_axes(call, &layer_norm); }
py::tuple rms_norm_entry(const RmsNormCall& call) { return over_last_axes(call, &rms_norm); }

py::object backward_entry(const BackwardCall& call) {
    const SampleNormContext& context = *call.ctx;
    const BackwardViews views(call.kName, context, call.dy, call.dh, call.x, call.residual);
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
    def_fast<&group_norm_entry>(m);
    def_fast<&layer_norm_entry>(m);
    def_fast<&rms_norm_entry>(m);
    def_fast<&backward_entry>(m);
}

}  // namespace bnfast::bindings
