// Batch normalization: the entry of each operation, and the context that backward takes.
#include <cmath>
#include <memory>

#include "arrays.h"
#include "bnfast/layout.h"
#include "fast_call.h"
#include "gil.h"
#include "register.h"

namespace bnfast::bindings {
namespace {

// What a forward call leaves for backward. The arrays are the caller's own.
struct BatchNormContext {
    py::array x;
    py::object residual = py::none();
    py::object where = py::none();
    BatchNormSaved saved;
};

constexpr const char* kContext = "BatchNormContext";

// The arrays of BatchNormSaved, which lie one after the other from count() on.
constexpr std::int64_t kSavedRows = 7;

BatchNormInputs inputs_of(const char* operation, const py::handle& x, const py::handle& gamma, const py::handle& beta,
                          const py::handle& residual, const py::handle& where) {
    BatchNormInputs inputs;
    inputs.x = view_of(operation, "x", x);
    inputs.gamma = channel_view_of(operation, "gamma", gamma);
    inputs.beta = channel_view_of(operation, "beta", beta);
    inputs.residual = optional_view_of(operation, "residual", residual);
    inputs.where = where_view_of(operation, where);
    return inputs;
}

// mean and var are not optional.
TensorView statistic_view_of(const char* operation, const char* name, const py::handle& object) {
    if (object.is_none()) {
        throw TypeError(std::string(operation) + ": " + name +
                        " has type NoneType, expected a NumPy array of float32 or float64");
    }
    return channel_view_of(operation, name, object);
}

BatchNormInputs inputs_of(const char* operation, const BatchNormContext& context) {
    return inputs_of(operation, context.x, py::none(), py::none(), context.residual, context.where);
}

// The classes of bnfast._moments.
py::handle moments_class() {
    static PyObject* slot = nullptr;
    return imported_once(slot, "bnfast._moments", "Moments");
}
py::handle gradient_sums_class() {
    static PyObject* slot = nullptr;
    return imported_once(slot, "bnfast._moments", "GradientSums");
}

std::vector<double> vector_of(const py::handle& object, const char* name) {
    const auto array = py::array_t<double, py::array::c_style | py::array::forcecast>::ensure(object.attr(name));
    return std::vector<double>(array.data(), array.data() + array.size());
}

void check_class(const char* operation, const char* name, const py::handle& object, const py::handle& expected) {
    if (!py::isinstance(object, expected)) refuse_class(operation, name, object.ptr(), expected);
}

Moments moments_of(const char* operation, const py::handle& object) {
    check_class(operation, "stats", object, moments_class());
    return {vector_of(object, "count"), vector_of(object, "mean"), vector_of(object, "mean_low"),
            vector_of(object, "m2")};
}

GradientSums gradient_sums_of(const char* operation, const py::handle& object) {
    check_class(operation, "sums", object, gradient_sums_class());
    return {vector_of(object, "count"), vector_of(object, "sum_dy"), vector_of(object, "sum_dy_xmu")};
}

py::object moments_object(const Moments& m) {
    const py::object make = moments_class().attr("_from_core");
    return call_python(make, count_array(m.count), float64_array(m.mean), float64_array(m.m2),
                       float64_array(m.mean_low));
}

bool is_double(const BatchNormContext& context) { return context.x.dtype().num() == py::detail::npy_api::NPY_DOUBLE_; }

std::vector<double> saved_row(const BatchNormContext& context, const double* row) {
    return std::vector<double>(row, row + context.saved.channels);
}

py::object context_moments(BatchNormContext& c) {
    return moments_object({saved_row(c, c.saved.count()), saved_row(c, c.saved.mean()),
                           saved_row(c, c.saved.mean_low()), saved_row(c, c.saved.m2())});
}

py::object context_mean(BatchNormContext& c) { return channel_array(c.saved.mean(), c.saved.channels, is_double(c)); }
py::object context_invstd(BatchNormContext& c) {
    return channel_array(c.saved.invstd(), c.saved.channels, is_double(c));
}
py::object context_seed(BatchNormContext& c) { return py::int_(c.saved.options.seed); }
py::object context_offset(BatchNormContext& c) { return py::int_(c.saved.options.offset); }

py::object context_var(BatchNormContext& c) {
    std::vector<double> var = saved_row(c, c.saved.m2());
    for (std::size_t i = 0; i < var.size(); ++i) var[i] /= c.saved.count()[i];
    return channel_array(var.data(), c.saved.channels, is_double(c));
}

// A property, of an object that was made as one should be.
template <py::object (*kGet)(BatchNormContext&)>
py::object of_context(const py::object& self) {
    return kGet(*Argument<BatchNormContext*>::from(kContext, "self", self.ptr()));
}

// Everything but the arrays, as numbers that any Python can read again.
py::tuple context_state(BatchNormContext& c) {
    const BatchNormSaved& s = c.saved;
    const BatchNormOptions& o = s.options;
    // NumPy pickles C order, but the bits of gradients follow x's order in memory: x is turned so that both are one.
    const TensorView view = view_of(kContext, "x", c.x);
    unsigned char dims[kMaxDims];
    memory_order(view, dims);
    py::tuple order(static_cast<std::size_t>(view.ndim)), back(static_cast<std::size_t>(view.ndim));
    for (int k = 0; k < view.ndim; ++k) {
        order[static_cast<std::size_t>(k)] = static_cast<int>(dims[k]);
        back[dims[k]] = k;
    }
    py::array_t<double> values({kSavedRows, s.channels});
    std::copy_n(c.saved.count(), kSavedRows * s.channels, values.mutable_data());
    return py::make_tuple(c.x.attr("transpose")(order), back, c.residual, c.where, values,
                          py::make_tuple(o.axis, o.eps, static_cast<int>(o.eps_placement),
                                         static_cast<int>(o.activation), o.activation_slope, o.dropout, o.seed,
                                         o.offset),
                          py::make_tuple(s.frozen, s.has_gamma, s.has_beta, s.in_place, s.foreign_stats));
}

std::unique_ptr<BatchNormContext> context_from_state(const py::tuple& state) {
    auto context = std::make_unique<BatchNormContext>();
    context->x = py::cast<py::array>(state[0].attr("transpose")(state[1]));
    context->residual = state[2];
    context->where = state[3];
    const auto values = py::cast<py::array_t<double, py::array::c_style>>(state[4]);
    const auto options = py::cast<py::tuple>(state[5]), traits = py::cast<py::tuple>(state[6]);
    BatchNormSaved& s = context->saved;
    s.options.axis = py::cast<int>(options[0]);
    s.options.eps = py::cast<double>(options[1]);
    s.options.eps_placement = static_cast<EpsPlacement>(py::cast<int>(options[2]));
    s.options.activation = static_cast<Activation>(py::cast<int>(options[3]));
    s.options.activation_slope = py::cast<double>(options[4]);
    s.options.dropout = py::cast<double>(options[5]);
    s.options.seed = py::cast<std::uint64_t>(options[6]);
    s.options.offset = py::cast<std::uint64_t>(options[7]);
    s.frozen = py::cast<bool>(traits[0]);
    s.has_gamma = py::cast<bool>(traits[1]);
    s.has_beta = py::cast<bool>(traits[2]);
    s.in_place = py::cast<bool>(traits[3]);
    s.foreign_stats = py::cast<bool>(traits[4]);
    inputs_of(kContext, *context);  // their kinds; backward checks the shapes
    const int axis = s.options.axis, activation = static_cast<int>(s.options.activation);
    if (axis < 0 || axis >= context->x.ndim() || activation < 0 || activation > static_cast<int>(Activation::kElu)) {
        throw ValueError("BatchNormContext: the state names an axis or an activation that there is not");
    }
    const std::int64_t channels = context->x.shape(axis);
    if (values.ndim() != 2 || values.shape(0) != kSavedRows || values.shape(1) != channels) {
        throw ValueError("BatchNormContext: the state has values of another shape than x asks for");
    }
    s.resize(channels);
    std::copy_n(values.data(), kSavedRows * channels, s.count());
    return context;
}

// --- operations -------------------------------------------------------------------------------------------------

struct MomentsCall {
    static constexpr const char* kName = "moments";
    py::handle x, where = Py_None;
    int axis = 1;
    static constexpr auto kFields =
        std::make_tuple(required("x", &MomentsCall::x), optional("axis", &MomentsCall::axis),
                        optional("where", &MomentsCall::where));
};

// What all forward operations take.
struct ForwardCall : BatchNormOptions {
    py::handle x, gamma = Py_None, beta = Py_None, residual = Py_None, out = Py_None;
    static constexpr auto kForwardFields =
        std::make_tuple(required("x", &ForwardCall::x), optional("gamma", &ForwardCall::gamma),
                        optional("beta", &ForwardCall::beta), optional("axis", &ForwardCall::axis),
                        optional("eps", &ForwardCall::eps), optional("residual", &ForwardCall::residual),
                        optional("activation", &ForwardCall::activation),
                        optional("activation_slope", &ForwardCall::activation_slope),
                        optional("eps_placement", &ForwardCall::eps_placement), optional("out", &ForwardCall::out));
};

struct BatchNormCall : ForwardCall {
    static constexpr const char* kName = "batch_norm";
    py::handle where = Py_None, stats = Py_None;
    static constexpr auto kFields =
        std::tuple_cat(kForwardFields, std::make_tuple(optional("dropout", &BatchNormCall::dropout),
                                                       optional("seed", &BatchNormCall::seed),
                                                       optional("offset", &BatchNormCall::offset),
                                                       optional("where", &BatchNormCall::where),
                                                       optional("stats", &BatchNormCall::stats)));
};

// Normalisation with given statistics, which are not optional.
struct GivenStatisticsCall : ForwardCall {
    py::handle mean, var;
    static constexpr auto kFields =
        std::tuple_cat(kForwardFields, std::make_tuple(required("mean", &GivenStatisticsCall::mean),
                                                       required("var", &GivenStatisticsCall::var)));
};
struct InferenceCall : GivenStatisticsCall {
    static constexpr const char* kName = "batch_norm_inference";
};
struct FrozenCall : GivenStatisticsCall {
    static constexpr const char* kName = "batch_norm_frozen";
};

struct BackwardSumsCall {
    static constexpr const char* kName = "batch_norm_backward_sums";
    py::handle dy;
    BatchNormContext* ctx = nullptr;
    static constexpr auto kFields =
        std::make_tuple(required("dy", &BackwardSumsCall::dy), required("ctx", &BackwardSumsCall::ctx));
};

struct BackwardCall {
    static constexpr const char* kName = "batch_norm_backward";
    py::handle dy, sums = Py_None, out = Py_None;
    BatchNormContext* ctx = nullptr;
    static constexpr auto kFields =
        std::make_tuple(required("dy", &BackwardCall::dy), required("ctx", &BackwardCall::ctx),
                        optional("sums", &BackwardCall::sums), optional("out", &BackwardCall::out));
};

py::object moments_entry(const MomentsCall& call) {
    const TensorView x = view_of(call.kName, "x", call.x);
    const WhereView where = where_view_of(call.kName, call.where);
    Moments result;
    {
        const ReleasedGil released(elements_of(x));
        result = moments(x, where, call.axis);
    }
    return moments_object(result);
}

py::tuple batch_norm_entry(const BatchNormCall& call) {
    const BatchNormInputs inputs = inputs_of(call.kName, call.x, call.gamma, call.beta, call.residual, call.where);
    std::optional<Moments> given;
    if (!call.stats.is_none()) given = moments_of(call.kName, call.stats);
    auto context = std::make_unique<BatchNormContext>();
    context->x = py::reinterpret_borrow<py::array>(call.x);
    context->residual = py::reinterpret_borrow<py::object>(call.residual);
    context->where = py::reinterpret_borrow<py::object>(call.where);
    TensorView y_view;
    py::array y = output_like(call.kName, call.out, context->x, inputs.x, y_view);
    {
        const ReleasedGil released(elements_of(inputs.x));
        batch_norm(inputs, call, given ? &*given : nullptr, y_view, context->saved);
    }
    return py::make_tuple(std::move(y), std::move(context));
}

py::array inference_entry(const InferenceCall& call) {
    const BatchNormInputs inputs = inputs_of(call.kName, call.x, call.gamma, call.beta, call.residual, py::none());
    const TensorView mean = statistic_view_of(call.kName, "mean", call.mean);
    const TensorView var = statistic_view_of(call.kName, "var", call.var);
    TensorView y_view;
    py::array y = output_like(call.kName, call.out, py::reinterpret_borrow<py::array>(call.x), inputs.x, y_view);
    const ReleasedGil released(elements_of(inputs.x));
    batch_norm_inference(inputs, mean, var, call, y_view);
    return y;
}

py::tuple frozen_entry(const FrozenCall& call) {
    const BatchNormInputs inputs = inputs_of(call.kName, call.x, call.gamma, call.beta, call.residual, py::none());
    const TensorView mean = statistic_view_of(call.kName, "mean", call.mean);
    const TensorView var = statistic_view_of(call.kName, "var", call.var);
    auto context = std::make_unique<BatchNormContext>();
    context->x = py::reinterpret_borrow<py::array>(call.x);
    context->residual = py::reinterpret_borrow<py::object>(call.residual);
    TensorView y_view;
    py::array y = output_like(call.kName, call.out, context->x, inputs.x, y_view);
    {
        const ReleasedGil released(elements_of(inputs.x));
        batch_norm_frozen(inputs, mean, var, call, y_view, context->saved);
    }
    return py::make_tuple(std::move(y), std::move(context));
}

py::object backward_sums_entry(const BackwardSumsCall& call) {
    const BatchNormInputs inputs = inputs_of(call.kName, *call.ctx);
    const TensorView dy = view_of(call.kName, "dy", call.dy);
    GradientSums sums;
    {
        const ReleasedGil released(elements_of(inputs.x));
        sums = batch_norm_backward_sums(inputs, dy, call.ctx->saved);
    }
    const py::object make = gradient_sums_class().attr("_from_core");
    return call_python(make, count_array(sums.count), float64_array(sums.sum_dy), float64_array(sums.sum_dy_xmu));
}

// bnfast.BatchNormGrads, a named tuple, from its entries: as tuple's own constructor makes one of a subclass.
py::object gradients_object(py::object dx, py::object dgamma, py::object dbeta, py::object dresidual) {
    static PyObject* slot = nullptr;
    PyTypeObject* const type =
        reinterpret_cast<PyTypeObject*>(imported_once(slot, "bnfast._functional", "BatchNormGrads").ptr());
    py::object made = py::reinterpret_steal<py::object>(type->tp_alloc(type, 4));
    if (!made) throw py::error_already_set();
#if PY_VERSION_HEX >= 0x030E0000
    reinterpret_cast<PyTupleObject*>(made.ptr())->ob_hash = -1;  // not computed
#endif
    PyTuple_SET_ITEM(made.ptr(), 0, dx.release().ptr());
    PyTuple_SET_ITEM(made.ptr(), 1, dgamma.release().ptr());
    PyTuple_SET_ITEM(made.ptr(), 2, dbeta.release().ptr());
    PyTuple_SET_ITEM(made.ptr(), 3, dresidual.release().ptr());
    return made;
}

py::object backward_entry(const BackwardCall& call) {
    BatchNormContext& context = *call.ctx;
    const BatchNormInputs inputs = inputs_of(call.kName, context);
    const TensorView dy = view_of(call.kName, "dy", call.dy);
    std::optional<GradientSums> total;
    if (!call.sums.is_none()) total = gradient_sums_of(call.kName, call.sums);
    TensorView dx_view, dresidual_view;
    py::array dx = output_like(call.kName, call.out, context.x, inputs.x, dx_view);
    py::object dresidual = py::none();
    if (!context.residual.is_none()) {
        py::array fresh = empty_like(context.x, inputs.x, dx_view.data);
        dresidual_view = view_of(call.kName, "dresidual", fresh);
        dresidual = std::move(fresh);
    }
    const std::int64_t channels = context.saved.channels;
    const std::unique_ptr<double[]> values(new double[2 * static_cast<std::size_t>(channels)]);
    double *const dgamma = values.get(), *const dbeta = dgamma + channels;
    {
        const ReleasedGil released(elements_of(inputs.x));
        batch_norm_backward(inputs, dy, context.saved, total ? &*total : nullptr, dx_view, dresidual_view, dgamma,
                            dbeta);
    }
    const auto parameter = [&](bool wanted, const double* gradient) -> py::object {
        if (!wanted) return py::none();
        return channel_array(gradient, channels, is_double(context));
    };
    return gradients_object(std::move(dx), parameter(context.saved.has_gamma, dgamma),
                            parameter(context.saved.has_beta, dbeta), std::move(dresidual));
}

}  // namespace

void register_batch_norm(py::module_& m) {
    py::class_<BatchNormContext>(m, "BatchNormContext", "What batch_norm_backward needs of a forward call.")
        .def(py::pickle(&context_state, &context_from_state))
        // Python's own for protocols 0 and 1 makes an instance of a base that pybind11 does not know.
        .def("__reduce_ex__",
             [](const py::object& self, const py::object&) {
                 return py::make_tuple(py::module_::import("copyreg").attr("__newobj__"),
                                       py::make_tuple(py::type::of(self)), self.attr("__getstate__")());
             })
        .def_property_readonly("moments", &of_context<&context_moments>,
                               "The statistics that x was normalised with, as Moments.")
        .def_property_readonly("mean", &of_context<&context_mean>, "Mean of each channel.")
        .def_property_readonly("var", &of_context<&context_var>, "Biased variance of each channel.")
        .def_property_readonly("invstd", &of_context<&context_invstd>, "1 / sqrt(var + eps), or 1 / (sqrt(var) + eps).")
        .def_property_readonly("seed", &of_context<&context_seed>, "Seed of the dropout mask.")
        .def_property_readonly("offset", &of_context<&context_offset>, "Stream of the dropout mask.");
    def_fast<&moments_entry>(m);
    def_fast<&batch_norm_entry>(m);
    def_fast<&inference_entry>(m);
    def_fast<&frozen_entry>(m);
    def_fast<&backward_sums_entry>(m);
    def_fast<&backward_entry>(m);
}

}  // namespace bnfast::bindings
