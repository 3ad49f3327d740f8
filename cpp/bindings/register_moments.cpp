// Moments and GradientSums: between Python and C++, and how they are measured and merged.
#include "bnfast/batch_norm.h"
#include "bnfast/layout.h"
#include "context.h"
#include "fast_call.h"
#include "gil.h"
#include "moments.h"
#include "register.h"
#include "streams.h"

namespace bnfast::bindings {
namespace {

// The classes of bnfast._moments.
py::handle moments_class() {
    static PyObject* slot = nullptr;
    return imported_once(slot, "bnfast._moments", "Moments");
}
py::handle gradient_sums_class() {
    static PyObject* slot = nullptr;
    return imported_once(slot, "bnfast._moments", "GradientSums");
}

// The numbers of an attribute.
template <class T>
std::vector<T> vector_of(const py::handle& object, const char* name) {
    const py::array_t<T, py::array::c_style | py::array::forcecast> array(object.attr(name));
    return std::vector<T>(array.data(), array.data() + array.size());
}

void check_class(const char* operation, const char* name, const py::handle& object, const py::handle& expected) {
    if (!py::isinstance(object, expected)) refuse_class(operation, name, object.ptr(), expected);
}

// An instance of the class, or of one that is derived from it.
py::object make_moments(const py::handle& type, const Moments& m) {
    return call_python(type.attr("_from_core"), new_array(m.count), new_array(m.mean), new_array(m.m2),
                       new_array(m.mean_low));
}
py::object make_gradient_sums(const py::handle& type, const GradientSums& sums) {
    return call_python(type.attr("_from_core"), new_array(sums.count), new_array(sums.sum_dy),
                       new_array(sums.sum_dy_xmu));
}

struct MomentsCall {
    static constexpr const char* kName = "moments";
    py::handle x, where = Py_None;
    int axis = 1;
    static constexpr auto kFields =
        std::make_tuple(required("x", &MomentsCall::x), optional("axis", &MomentsCall::axis),
                        optional("where", &MomentsCall::where));
};

py::object moments_entry(const MomentsCall& call) {
    ArrayView x, where;
    const TensorView& x_view = x.bind(call.kName, "x", call.x);
    const std::optional<TensorView> where_view = where.bind_where(call.kName, call.where, x_view.device);
    Moments result;
    {
        const ReleasedGil released(elements_or_wait(x_view));
        result = moments(x_view, where_view, call.axis);
    }
    return moments_object(result);
}

struct UpdateRunningCall {
    static constexpr const char* kName = "update_running";
    BatchNormContext* ctx = nullptr;
    py::handle mean = Py_None, var = Py_None;
    double momentum = 0.1;
    static constexpr auto kFields =
        std::make_tuple(required("ctx", &UpdateRunningCall::ctx), required("mean", &UpdateRunningCall::mean),
                        required("var", &UpdateRunningCall::var), required("momentum", &UpdateRunningCall::momentum));
};

// Running statistics that a call writes: float32 or float64, one entry a channel. None is no view.
void bind_running(ArrayView& view, const char* name, const py::handle& array, std::int64_t channels) {
    if (array.is_none()) return;
    const std::string argument = std::string(UpdateRunningCall::kName) + ": " + name;
    const TensorView& running = view.bind_output(UpdateRunningCall::kName, name, array);
    if (running.ndim != 1 || running.shape[0] != channels) {
        throw ValueError(argument + " has another shape, expected (" + std::to_string(channels) + ",)");
    }
    if (running.dtype != DType::kFloat32 && running.dtype != DType::kFloat64) {
        throw TypeError(argument + " has 16 bits, expected float32 or float64");
    }
}

// running = (1 - momentum) * running + momentum * batch, for the channels of which the batch has elements.
template <class Batch>
void update(const ArrayView& view, const py::handle& array, const UpdateRunningCall& call, const Batch& batch) {
    if (array.is_none()) return;
    const TensorView& running = view.get();
    const double* const count = call.ctx->state().count();
    const auto move = [&](auto* values) {
        // NOLINTNEXTLINE(clang-analyzer-core.NullDereference): a view that was bound has strides
        const std::int64_t step = running.strides[0] / static_cast<std::int64_t>(sizeof *values);
        for (std::int64_t i = 0; i < running.shape[0]; ++i) {
            if (count[i] == 0) continue;
            const double old{values[i * step]};
            values[i * step] = static_cast<std::decay_t<decltype(*values)>>(old + call.momentum * (batch(i) - old));
        }
    };
    if (running.dtype == DType::kFloat64) {
        move(static_cast<double*>(running.data));
    } else {
        move(static_cast<float*>(running.data));
    }
    if (view.library() != nullptr) report_write(*view.library(), array);
}

// For adapters that keep running statistics in arrays of their library: towards the batch's mean and unbiased variance.
py::object update_running_entry(const UpdateRunningCall& call) {
    if (call.ctx->state().device.type != Device::Type::kCpu) {
        throw ValueError("update_running: ctx is that of a call on a GPU, expected one on the CPU");
    }
    const NormState& state = call.ctx->state();
    ArrayView mean, var;
    bind_running(mean, "mean", call.mean, state.statistics);
    bind_running(var, "var", call.var, state.statistics);
    update(mean, call.mean, call, [&](std::int64_t i) { return state.mean()[i] + state.mean_low()[i]; });
    update(var, call.var, call, [&](std::int64_t i) { return state.m2()[i] / (state.count()[i] - 1); });
    return py::none();
}

struct MergeCall {
    py::handle one, other;
    static constexpr auto kFields =
        std::make_tuple(required("one", &MergeCall::one), required("other", &MergeCall::other));
};
struct MergeMomentsCall : MergeCall {
    static constexpr const char* kName = "merge_moments";
};
struct MergeGradientSumsCall : MergeCall {
    static constexpr const char* kName = "merge_gradient_sums";
};

py::object merge_moments_entry(const MergeMomentsCall& call) {
    Moments merged = moments_of(call.kName, "one", call.one);
    merge(merged, moments_of(call.kName, "other", call.other));
    return make_moments(py::type::of(call.one), merged);
}

py::object merge_gradient_sums_entry(const MergeGradientSumsCall& call) {
    GradientSums merged = gradient_sums_of(call.kName, "one", call.one);
    merge(merged, gradient_sums_of(call.kName, "other", call.other));
    return make_gradient_sums(py::type::of(call.one), merged);
}

}  // namespace

Moments moments_of(const char* operation, const char* name, const py::handle& object) {
    check_class(operation, name, object, moments_class());
    return {vector_of<std::int64_t>(object, "count"), vector_of<double>(object, "mean"),
            vector_of<double>(object, "mean_low"), vector_of<double>(object, "m2")};
}

GradientSums gradient_sums_of(const char* operation, const char* name, const py::handle& object) {
    check_class(operation, name, object, gradient_sums_class());
    return {vector_of<std::int64_t>(object, "count"), vector_of<double>(object, "sum_dy"),
            vector_of<double>(object, "sum_dy_xmu")};
}

py::object moments_object(const Moments& moments) { return make_moments(moments_class(), moments); }

py::object gradient_sums_object(const GradientSums& sums) { return make_gradient_sums(gradient_sums_class(), sums); }

void register_moments(py::module_& m) {
    def_fast<&moments_entry>(m);
    def_fast<&update_running_entry>(m);
    def_fast<&merge_moments_entry>(m);
    def_fast<&merge_gradient_sums_entry>(m);
}

}  // namespace bnfast::bindings
