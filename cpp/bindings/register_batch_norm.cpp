// Batch normalization: the entry of each operation.
#include <memory>

#include "bnfast/layout.h"
#include "context.h"
#include "forward_call.h"
#include "gil.h"
#include "moments.h"
#include "register.h"
#include "streams.h"

namespace bnfast::bindings {
namespace {

struct BatchNormCall : ForwardCall {
    static constexpr const char* kName = "batch_norm";
    py::handle where = Py_None, stats = Py_None;
    static constexpr auto kFields = std::tuple_cat(kForwardFields, kDropoutFields,
                                                   std::make_tuple(optional("where", &BatchNormCall::where),
                                                                   optional("stats", &BatchNormCall::stats)));
};

// Normalisation with given statistics, which are not optional.
struct GivenStatisticsCall : ForwardCall {
    py::handle mean, var, where = Py_None;
    static constexpr auto kFields =
        std::tuple_cat(kForwardFields, std::make_tuple(required("mean", &GivenStatisticsCall::mean),
                                                       required("var", &GivenStatisticsCall::var),
                                                       optional("where", &GivenStatisticsCall::where)));
};
struct InferenceCall : GivenStatisticsCall {
    static constexpr const char* kName = "batch_norm_inference";
};
struct FrozenCall : GivenStatisticsCall {
    static constexpr const char* kName = "batch_norm_frozen";
};

struct BackwardSumsCall {
    static constexpr const char* kName = "batch_norm_backward_sums";
    py::handle dy, x = Py_None, residual = Py_None;
    BatchNormContext* ctx = nullptr;
    static constexpr auto kFields =
        std::make_tuple(required("dy", &BackwardSumsCall::dy), required("ctx", &BackwardSumsCall::ctx),
                        optional("x", &BackwardSumsCall::x), optional("residual", &BackwardSumsCall::residual));
};

struct BackwardCall {
    static constexpr const char* kName = "batch_norm_backward";
    py::handle dy, sums = Py_None, out = Py_None, x = Py_None, residual = Py_None;
    BatchNormContext* ctx = nullptr;
    static constexpr auto kFields =
        std::make_tuple(required("dy", &BackwardCall::dy), required("ctx", &BackwardCall::ctx),
                        optional("sums", &BackwardCall::sums), optional("out", &BackwardCall::out),
                        optional("x", &BackwardCall::x), optional("residual", &BackwardCall::residual));
};

// A context for a forward call on x. Its state is as large as x and the axis ask for.
template <class Call>
std::unique_ptr<BatchNormContext> new_context(const Call& call, const ForwardViews& views) {
    const std::int64_t size = size_or_zero(&batch_norm_state_size, views.inputs.x, call.axis);
    auto context = std::make_unique<BatchNormContext>(call.x, views.x, size);
    context->residual = py::reinterpret_borrow<py::object>(call.residual);
    context->where = py::reinterpret_borrow<py::object>(call.where);
    return context;
}

py::tuple batch_norm_entry(const BatchNormCall& call) {
    const ForwardViews views(call.kName, call, call.where);
    const NormInputs& inputs = views.inputs;
    std::optional<Moments> given;
    if (!call.stats.is_none()) given = moments_of(call.kName, "stats", call.stats);
    auto context = new_context(call, views);
    OutputArray y(call.kName, call.out, views.x, call.x, inputs.x);
    {
        const ReleasedGil released(elements_of(inputs.x));
        if (given) {
            batch_norm_with_stats(inputs, call, *given, y.view(), context->state());
        } else {
            batch_norm(inputs, call, y.view(), context->state());
        }
    }
    return py::make_tuple(y.take(), std::move(context));
}

// Mean and var as views.
struct GivenStatistics {
    GivenStatistics(const char* operation, const GivenStatisticsCall& call, const Device& device) {
        mean.bind_channels(operation, "mean", call.mean, device);
        var.bind_channels(operation, "var", call.var, device);
    }
    ArrayView mean, var;
};

py::object inference_entry(const InferenceCall& call) {
    const ForwardViews views(call.kName, call, call.where);
    const GivenStatistics given(call.kName, call, views.inputs.x.device);
    const TensorView& x = views.inputs.x;
    OutputArray y(call.kName, call.out, views.x, call.x, x);
    {
        const ReleasedGil released(elements_of(x));
        batch_norm_inference(views.inputs, given.mean.get(), given.var.get(), call, y.view());
    }
    return y.take();
}

py::tuple frozen_entry(const FrozenCall& call) {
    const ForwardViews views(call.kName, call, call.where);
    const GivenStatistics given(call.kName, call, views.inputs.x.device);
    const TensorView& x = views.inputs.x;
    auto context = new_context(call, views);
    OutputArray y(call.kName, call.out, views.x, call.x, x);
    {
        const ReleasedGil released(elements_of(x));
        batch_norm_frozen(views.inputs, given.mean.get(), given.var.get(), call, y.view(), context->state());
    }
    return py::make_tuple(y.take(), std::move(context));
}

py::object backward_sums_entry(const BackwardSumsCall& call) {
    const BackwardViews views(call.kName, *call.ctx, call.dy, py::none(), call.x, call.residual);
    GradientSums sums;
    {
        const ReleasedGil released(elements_or_wait(views.inputs.x));
        sums = batch_norm_backward_sums(views.inputs, call.ctx->state());
    }
    return gradient_sums_object(sums);
}

py::object backward_entry(const BackwardCall& call) {
    const BatchNormContext& context = *call.ctx;
    const BackwardViews views(call.kName, context, call.dy, py::none(), call.x, call.residual);
    std::optional<GradientSums> total;
    if (!call.sums.is_none()) total = gradient_sums_of(call.kName, "sums", call.sums);
    BackwardResults results(call.kName, context, views, call.out);
    {
        const ReleasedGil released(elements_of(views.inputs.x));
        if (total) {
            batch_norm_backward_with_sums(views.inputs, context.state(), *total, results.gradients());
        } else {
            batch_norm_backward(views.inputs, context.state(), results.gradients());
        }
    }
    static PyObject* slot = nullptr;
    return results.take(context, imported_once(slot, "bnfast._functional", "BatchNormGrads"));
}

}  // namespace

void register_batch_norm(py::module_& m) {
    def_fast<&batch_norm_entry>(m);
    def_fast<&inference_entry>(m);
    def_fast<&frozen_entry>(m);
    def_fast<&backward_sums_entry>(m);
    def_fast<&backward_entry>(m);
}

}  // namespace bnfast::bindings
