// What a forward call leaves for backward, as Python sees it: the arrays of the call, and its state.
#include "context.h"

#include <functional>
#include <memory>
#include <numeric>

#include "bnfast/layout.h"
#include "gil.h"
#include "moments.h"
#include "register.h"
#include "streams.h"

namespace bnfast::bindings {

std::vector<double> NormContext::on_host(const double* numbers, std::int64_t count) const {
    std::vector<double> copy(static_cast<std::size_t>(count));
    const Device& device = state().device;
    const ReleasedGil released(device.type == Device::Type::kCpu ? 0 : ReleasedGil::kWorthwhile);
    copy_to_host(device, copy.data(), numbers, copy.size() * sizeof(double));
    return copy;
}

BackwardViews::BackwardViews(const char* operation, const NormContext& context, const py::handle& dy_array,
                             const py::handle& dh_array, const py::handle& given_x, const py::handle& given_residual)
    : x_array(given_x.is_none() ? context.x : py::reinterpret_borrow<py::object>(given_x)),
      residual_array(given_residual.is_none() ? context.residual : py::reinterpret_borrow<py::object>(given_residual)),
      where_array(context.where) {
    if (x_array.is_none()) {
        throw ValueError(std::string(operation) + ": ctx has no arrays, expected set_arrays first");
    }
    inputs.x = x.bind(operation, "x", x_array);
    const Device& device = inputs.x.device;
    inputs.residual = residual.bind_optional(operation, "residual", residual_array, device);
    inputs.where = where.bind_where(operation, where_array, device);
    inputs.dy = dy.bind(operation, "dy", dy_array, device);
    inputs.dh = dh.bind_optional(operation, "dh", dh_array, device);
    if (device.type != Device::Type::kCpu) use.emplace(context.state().device, device);
}

BackwardResults::BackwardResults(const char* operation, const NormContext& context, const BackwardViews& views,
                                 const py::handle& out)
    : parameters_{views.dy.library(), views.inputs.x.device, views.dy.stream_owner(), context.is_double()},
      dx_(operation, out, views.dy, views.x_array, views.inputs.x),
      values_(new_numbers(2 * context.state().parameters, views.inputs.x.device)) {
    gradients_.dx = dx_.view();
    const NormState& state = context.state();
    // Before the norm, and without dropout, dx is the gradient of both.
    if (state.has_residual && (state.scope != Scope::kLastAxes || state.options.dropout != 0)) {
        dresidual_.emplace(operation, py::none(), views.dy, views.x_array, views.inputs.x, gradients_.dx.data);
        gradients_.dresidual = dresidual_->view();
    }
    gradients_.dgamma = values_.get();
    gradients_.dbeta = values_.get() + context.state().parameters;
}

// As tuple's own constructor makes an instance of a subclass.
py::object BackwardResults::take(const NormContext& context, const py::handle& type) {
    const NormState& state = context.state();
    const auto parameter = [&](bool wanted, const double* gradient) -> py::object {
        if (!wanted) return py::none();
        if (state.scope != Scope::kLastAxes) return parameters_.of(gradient, nullptr, &state.parameters, 1);
        const int axis = state.options.axis;
        return parameters_.of(gradient, nullptr, state.shape + axis, state.ndim - axis);
    };
    py::object dx = dx_.take();
    py::object dresidual = dresidual_ ? dresidual_->take() : state.has_residual ? dx : py::none();
    py::object dgamma = parameter(state.has_gamma, gradients_.dgamma);
    py::object dbeta = parameter(state.has_beta, gradients_.dbeta);
    PyTypeObject* const tuple_type = reinterpret_cast<PyTypeObject*>(type.ptr());
    py::object made = py::reinterpret_steal<py::object>(tuple_type->tp_alloc(tuple_type, 4));
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

namespace {

// --- statistics -------------------------------------------------------------------------------------------------

// Float64 numbers of the state, or their quotients, as an array of the context's library, made on its current stream.
py::object state_array(const NormContext& context, bool is_double, const double* row, const double* divisors,
                       const std::int64_t* shape, int ndim) {
    const Device& owner = context.state().device;
    NumberArray numbers{context.library, owner, context.stream_owner, is_double};
    if (owner.type == Device::Type::kCuda) {
        const CurrentStream current = current_stream(*context.library, owner.index);
        numbers.device = current.device;
        numbers.stream_owner = current.owner;
    }
    const UseOnStream use(owner, numbers.device);
    return numbers.of(row, divisors, shape, ndim);
}
// Those of the statistics: one a channel, of shape (samples, groups), or of that of the axes before the normalised
// ones.
py::object statistics_array(const NormContext& context, const double* row, const double* divisors = nullptr) {
    const NormState& state = context.state();
    const auto array = [&](const std::int64_t* shape, int ndim) {
        return state_array(context, context.is_double(), row, divisors, shape, ndim);
    };
    if (state.scope == Scope::kBatch) return array(&state.statistics, 1);
    if (state.scope == Scope::kLastAxes) return array(state.shape, state.options.axis);
    const std::int64_t shape[] = {state.shape[0], state.groups > 0 ? state.groups : state.parameters};
    return array(shape, 2);
}
// All of them: "values" of a state that is made again.
template <class Context>
py::object numbers_of(const Context& context) {
    const std::int64_t size = context.state().size();
    return state_array(context, true, context.state().values, nullptr, &size, 1);
}
template <class Context>
py::object mean_of(const Context& context) {
    if (context.state().centre == Centre::kZero) return py::none();
    return statistics_array(context, context.state().mean());
}
template <class Context>
py::object invstd_of(const Context& context) {
    return statistics_array(context, context.state().invstd());
}
template <class Context>
py::object var_of(const Context& context) {
    return statistics_array(context, context.state().m2(), context.state().count());
}
template <class Context>
py::object seed_of(const Context& context) {
    return py::int_(context.state().options.seed);
}
template <class Context>
py::object offset_of(const Context& context) {
    return py::int_(context.state().options.offset);
}
py::object h_of(const SampleNormContext& context) { return context.x; }
py::object moments_of_context(const BatchNormContext& context) {
    const NormState& state = context.state();
    const auto row = [&](const double* numbers) { return context.on_host(numbers, state.statistics); };
    const std::vector<double> count = row(state.count());
    return moments_object({{count.begin(), count.end()}, row(state.mean()), row(state.mean_low()), row(state.m2())});
}

// What backward reads; it checks them.
template <class Context>
void set_arrays(const py::object& self, const py::object& x, const py::object& residual, const py::object& where) {
    Context& context = *Argument<Context*>::from("set_arrays", "self", self.ptr());
    context.x = x;
    context.residual = residual;
    context.where = where;
}

// A property, of an object that was made as one should be.
template <class Context, py::object (*kGet)(const Context&)>
py::object property(const py::object& self) {
    return kGet(*Argument<Context*>::from("context", "self", self.ptr()));
}

// --- pickling ---------------------------------------------------------------------------------------------------

// The size of a state of that kind.
std::int64_t state_size(const NormState& kind, const TensorView& x) {
    switch (kind.scope) {
        case Scope::kGroup:
            return kind.groups > 0 ? group_norm_state_size(x, kind.groups, kind.options.axis)
                                   : instance_norm_state_size(x, kind.options.axis);
        case Scope::kLastAxes: return layer_norm_state_size(x, kind.options.axis);
        default: return batch_norm_state_size(x, kind.options.axis);
    }
}

// The statistics of a state that knows x's shape.
std::int64_t statistics_of(const NormState& state) {
    const std::int64_t channels = state.shape[state.options.axis];
    switch (state.scope) {
        case Scope::kGroup: return state.shape[0] * (state.groups > 0 ? state.groups : channels);
        case Scope::kLastAxes:
            return std::accumulate(state.shape, state.shape + state.options.axis, std::int64_t{1}, std::multiplies<>());
        default: return channels;
    }
}

// Everything, as objects that any Python can read again.
template <class Context>
py::dict context_state(const Context& context) {
    using namespace py::literals;
    const NormState& state = context.state();
    const NormOptions& options = state.options;
    if (context.x.is_none()) throw ValueError("context: it has no arrays to copy, expected set_arrays first");
    // NumPy pickles C order, but the bits of gradients follow x's order in memory: x is turned so that both are one.
    ArrayView view, residual, where;
    unsigned char dims[kMaxDims];
    if (view.bind("context", "x", context.x).ndim != state.ndim) {
        throw ValueError("context: x has another number of dimensions than in the forward call");
    }
    memory_order(view.get(), dims);
    py::tuple order(static_cast<std::size_t>(state.ndim)), back(static_cast<std::size_t>(state.ndim));
    for (int k = 0; k < state.ndim; ++k) {
        order[static_cast<std::size_t>(k)] = static_cast<int>(dims[k]);
        back[dims[k]] = k;
    }
    residual.bind_optional("context", "residual", context.residual, view.get().device);
    where.bind_where("context", context.where, view.get().device);
    return py::dict("x"_a = as_numpy(context.x, view).attr("transpose")(order), "order"_a = back,
                    "residual"_a = as_numpy(context.residual, residual), "where"_a = as_numpy(context.where, where),
                    "values"_a = new_array(context.on_host(state.values, state.size())), "axis"_a = options.axis,
                    "eps"_a = options.eps, "eps_placement"_a = static_cast<int>(options.eps_placement),
                    "activation"_a = static_cast<int>(options.activation),
                    "activation_slope"_a = options.activation_slope, "dropout"_a = options.dropout,
                    "seed"_a = options.seed, "offset"_a = options.offset, "scope"_a = static_cast<int>(state.scope),
                    "centre"_a = static_cast<int>(state.centre), "groups"_a = state.groups,
                    "has_residual"_a = state.has_residual, "constant_statistics"_a = state.constant_statistics,
                    "has_gamma"_a = state.has_gamma, "has_beta"_a = state.has_beta, "in_place"_a = state.in_place,
                    "foreign_stats"_a = state.foreign_stats);
}

template <class T>
T entry(const py::dict& pickled, const char* key) {
    try {
        return py::cast<T>(pickled[key]);
    } catch (const py::cast_error&) {
        throw ValueError(std::string("context: the pickled state has another ") + key + " than there can be");
    }
}

template <class Context>
std::unique_ptr<Context> context_from_state(const py::dict& pickled) {
    const char* const name = "context";
    const auto x = entry<py::array>(pickled, "x").attr("transpose")(pickled["order"]);
    ArrayView x_view, residual_view, where_view;
    const TensorView& view = x_view.bind(name, "x", x);
    const int axis = entry<int>(pickled, "axis"), activation = entry<int>(pickled, "activation");
    const int scope = entry<int>(pickled, "scope"), centre = entry<int>(pickled, "centre");
    // NumPy's, or those of a library, which may be on a GPU: the context is then one for its arrays.
    const py::object values = py::object(pickled["values"]);
    const bool is_numpy = py::isinstance<py::array>(values);
    ArrayView values_view;
    const auto checked_values =
        is_numpy ? py::object(entry<py::array_t<double, py::array::c_style>>(pickled, "values")) : values;
    const TensorView& given = values_view.bind_channels(name, "values", checked_values, {});
    if (axis < 0 || axis >= view.ndim || activation < 0 || activation > static_cast<int>(Activation::kElu)) {
        throw ValueError("context: the pickled state names an axis or an activation that there is not");
    }
    const bool of_batch = std::is_same_v<Context, BatchNormContext>;
    if (of_batch != (scope == 0) || scope < 0 || scope > static_cast<int>(Scope::kLastAxes) || centre < 0 ||
        centre > static_cast<int>(Centre::kZero)) {
        throw ValueError("context: the pickled state is that of a norm that there is not");
    }
    NormState kind;
    kind.scope = static_cast<Scope>(scope);
    kind.centre = static_cast<Centre>(centre);
    kind.groups = entry<std::int64_t>(pickled, "groups");
    kind.options.axis = axis;
    const std::int64_t size = state_size(kind, view);
    if (given.ndim != 1 || given.shape[0] != size || given.dtype != DType::kFloat64 ||
        (size > 1 && given.strides[0] != item_size(DType::kFloat64))) {
        throw ValueError("context: the pickled state has another number of values than x asks for");
    }
    auto context = std::make_unique<Context>(x, is_numpy ? x_view : values_view, size);
    context->residual = pickled["residual"];
    context->where = pickled["where"];
    NormState& state = context->state();
    if (given.device.type == Device::Type::kCpu) {
        std::copy_n(static_cast<const double*>(given.data), size, state.values);
    } else {
        TensorView own = given;
        own.data = state.values;
        store_numbers(static_cast<const double*>(given.data), nullptr, own);
    }
    state.scope = kind.scope;
    state.centre = kind.centre;
    state.groups = kind.groups;
    state.options.axis = axis;
    state.options.eps = entry<double>(pickled, "eps");
    state.options.eps_placement = static_cast<EpsPlacement>(entry<int>(pickled, "eps_placement"));
    state.options.activation = static_cast<Activation>(activation);
    state.options.activation_slope = entry<double>(pickled, "activation_slope");
    state.options.dropout = entry<double>(pickled, "dropout");
    state.options.seed = entry<std::uint64_t>(pickled, "seed");
    state.options.offset = entry<std::uint64_t>(pickled, "offset");
    state.device = given.device;
    state.dtype = view.dtype;
    state.ndim = view.ndim;
    std::copy_n(view.shape, view.ndim, state.shape);
    state.statistics = statistics_of(state);
    state.parameters = (size - 5 * state.statistics) / 2;
    state.constant_statistics = entry<bool>(pickled, "constant_statistics");
    state.has_gamma = entry<bool>(pickled, "has_gamma");
    state.has_beta = entry<bool>(pickled, "has_beta");
    // The kinds of these arrays; backward checks their shapes.
    const bool has_residual = residual_view.bind_optional(name, "residual", context->residual, view.device).has_value();
    const bool had_residual = entry<bool>(pickled, "has_residual");
    state.has_residual = has_residual || (kind.scope == Scope::kLastAxes && had_residual);
    state.has_where = where_view.bind_where(name, context->where, view.device).has_value();
    state.in_place = entry<bool>(pickled, "in_place");
    state.foreign_stats = entry<bool>(pickled, "foreign_stats");
    return context;
}

template <class Context>
py::class_<Context> register_context(py::module_& m, const char* name, const char* doc, const char* of) {
    const std::string mean = std::string("Mean of each ") + of, var = std::string("Biased variance of each ") + of;
    py::class_<Context> type(m, name, doc);
    type.def(py::pickle(&context_state<Context>, &context_from_state<Context>))
        // Python's own for protocols 0 and 1 makes an instance of a base that pybind11 does not know.
        .def("__reduce_ex__",
             [](const py::object& self, const py::object&) {
                 return py::make_tuple(py::module_::import("copyreg").attr("__newobj__"),
                                       py::make_tuple(py::type::of(self)), self.attr("__getstate__")());
             })
        .def("set_arrays", &set_arrays<Context>, py::arg("x"), py::arg("residual") = py::none(),
             py::arg("where") = py::none(),
             "Put others in the place of the arrays that backward reads; None lets go of them.")
        .def_property_readonly("mean", &property<Context, &mean_of<Context>>, mean.c_str())
        .def_property_readonly("var", &property<Context, &var_of<Context>>, var.c_str())
        .def_property_readonly("invstd", &property<Context, &invstd_of<Context>>,
                               "1 / sqrt(var + eps), or 1 / (sqrt(var) + eps).")
        .def_property_readonly("numbers", &property<Context, &numbers_of<Context>>,
                               "All numbers of the state, as float64.")
        .def_property_readonly("seed", &property<Context, &seed_of<Context>>, "Seed of the dropout mask.")
        .def_property_readonly("offset", &property<Context, &offset_of<Context>>, "Stream of the dropout mask.");
    return type;
}

}  // namespace

void register_contexts(py::module_& m) {
    register_context<BatchNormContext>(m, "BatchNormContext", "What batch_norm_backward needs of a forward call.",
                                       "channel.")
        .def_property_readonly("moments", &property<BatchNormContext, &moments_of_context>,
                               "The statistics that x was normalised with, as Moments.");
    register_context<SampleNormContext>(m, "NormContext", "What norm_backward needs of a forward call.",
                                        "sample and group of channels, or of each row.")
        .def_property_readonly("h", &property<SampleNormContext, &h_of>,
                               "What was normalised: x, or residual + dropout(x) where these stand before the norm.");
}

}  // namespace bnfast::bindings
