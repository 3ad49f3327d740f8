// Moments and GradientSums: between Python and C++, and how they are measured.
#include "bnfast/batch_norm.h"
#include "bnfast/layout.h"
#include "fast_call.h"
#include "gil.h"
#include "moments.h"
#include "register.h"

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

std::vector<double> vector_of(const py::handle& object, const char* name) {
    const auto array = py::array_t<double, py::array::c_style | py::array::forcecast>::ensure(object.attr(name));
    return std::vector<double>(array.data(), array.data() + array.size());
}

void check_class(const char* operation, const char* name, const py::handle& object, const py::handle& expected) {
    if (!py::isinstance(object, expected)) refuse_class(operation, name, object.ptr(), expected);
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
    const std::optional<TensorView> where_view = where.bind_where(call.kName, call.where);
    Moments result;
    {
        const ReleasedGil released(elements_of(x_view));
        result = moments(x_view, where_view, call.axis);
    }
    return moments_object(result);
}

}  // namespace

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

py::object gradient_sums_object(const GradientSums& sums) {
    const py::object make = gradient_sums_class().attr("_from_core");
    return call_python(make, count_array(sums.count), float64_array(sums.sum_dy), float64_array(sums.sum_dy_xmu));
}

void register_moments(py::module_& m) { def_fast<&moments_entry>(m); }

}  // namespace bnfast::bindings
