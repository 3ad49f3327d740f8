// Functions of the module whose arguments have names in Python and are the fields of a struct here. pybind11's own
// dispatch of fifteen arguments would take a fifteenth of a batch norm of few elements.
//
// An operation is a struct with a constant kName, a member for each argument with the default as its initial value, and
// the list kFields of `required` and `optional` ones. def_fast<&entry>(m), where entry takes such a struct, adds it.
#pragma once

#include <array>
#include <climits>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "arrays.h"

namespace bnfast::bindings {

// Sets the Python error for the exception that is being handled, in a call of this name.
void set_python_error(const char* operation) noexcept;

// --- from objects to values -------------------------------------------------------------------------------------

double real_argument(const char* operation, const char* name, PyObject* object);
int int_argument(const char* operation, const char* name, PyObject* object);
std::uint64_t uint64_argument(const char* operation, const char* name, PyObject* object);
std::vector<int> ints_argument(const char* operation, const char* name, PyObject* object);
[[noreturn]] void refuse_class(const char* operation, const char* name, PyObject* object, const py::handle& expected);

// How a Python object becomes an argument of type T. An object that cannot become one is a TypeError, a number that T
// does not hold is a ValueError. Enumerations are passed as their numbers, which Python has looked up.
template <class T>
struct Argument {
    static_assert(std::is_enum_v<T>);
    static T from(const char* operation, const char* name, PyObject* object) {
        return static_cast<T>(int_argument(operation, name, object));
    }
};
// The caller keeps the object alive during the call.
template <>
struct Argument<py::handle> {
    static py::handle from(const char*, const char*, PyObject* object) { return object; }
};
template <>
struct Argument<double> {
    static double from(const char* operation, const char* name, PyObject* object) {
        return PyFloat_CheckExact(object) ? PyFloat_AS_DOUBLE(object) : real_argument(operation, name, object);
    }
};
template <>
struct Argument<int> {
    static int from(const char* operation, const char* name, PyObject* object) {
        return int_argument(operation, name, object);
    }
};
template <>
struct Argument<std::uint64_t> {
    static std::uint64_t from(const char* operation, const char* name, PyObject* object) {
        return uint64_argument(operation, name, object);
    }
};
template <>
struct Argument<std::vector<int>> {
    static std::vector<int> from(const char* operation, const char* name, PyObject* object) {
        return ints_argument(operation, name, object);
    }
};
// An instance of a class that is registered with pybind11.
template <class T>
struct Argument<T*> {
    static T* from(const char* operation, const char* name, PyObject* object) {
        py::detail::make_caster<T> caster;
        if (!caster.load(object, false)) refuse_class(operation, name, object, py::type::of<T>());
        // pybind11 hands out memory without an object where __new__ was called, but neither __init__ nor __setstate__.
        const auto holder = reinterpret_cast<py::detail::instance*>(object)->get_value_and_holder();
        if (!holder.holder_constructed()) {
            throw TypeError(std::string(operation) + ": " + name + " was made without its state");
        }
        return &py::detail::cast_op<T&>(caster);
    }
};

// --- fields -----------------------------------------------------------------------------------------------------

template <class Struct, class T>
struct Field {
    const char* name;
    T Struct::* member;
    bool required;
};
template <class Struct, class T>
constexpr Field<Struct, T> required(const char* name, T Struct::* member) {
    return {name, member, true};
}
template <class Struct, class T>
constexpr Field<Struct, T> optional(const char* name, T Struct::* member) {
    return {name, member, false};
}

// What Placements needs to know of a field.
struct FieldName {
    const char* name;
    bool required;
};

constexpr int kMostFields = 16;
constexpr signed char kNotGiven = -1;

// Which of the objects that a call passes belongs to each field.
struct Placement {
    signed char object[kMostFields];
};

// CPython passes the values of a call, positional ones first, and the names of the others as a tuple. That tuple is a
// constant of the calling code: names are compared with the fields only once, and the outcome is kept with a reference
// to the tuple, which is then known by its address. The GIL guards this. Constant initialisation needs no lock, see
// imported_once in arrays.h.
class Placements {
  public:
    // TypeError for a name that is unknown, given twice or missing. Returns a copy, as reading an argument may run
    // Python code, and calls from there may replace what is kept.
    Placement find(const char* operation, const FieldName* fields, int num_fields, Py_ssize_t positional,
                   PyObject* names) {
        for (const Kept& kept : kept_) {
            if (kept.names == names && kept.positional == positional) return kept.placement;
        }
        return add(operation, fields, num_fields, positional, names);
    }

  private:
    struct Kept {
        PyObject* names = nullptr;
        Py_ssize_t positional = -1;
        Placement placement{};
    };
    Placement add(const char* operation, const FieldName* fields, int num_fields, Py_ssize_t positional,
                  PyObject* names);

    static constexpr int kMostKept = 4;  // the package has one or two calls of each operation
    Kept kept_[kMostKept];
    int next_ = 0;
};

// --- calls ------------------------------------------------------------------------------------------------------

template <class Call, std::size_t... k>
constexpr std::array<FieldName, sizeof...(k)> field_names(std::index_sequence<k...>) {
    return {{{std::get<k>(Call::kFields).name, std::get<k>(Call::kFields).required}...}};
}
template <class Call>
using FieldIndices = std::make_index_sequence<std::tuple_size_v<std::remove_const_t<decltype(Call::kFields)>>>;
template <class Call>
constexpr auto kFieldNames = field_names<Call>(FieldIndices<Call>{});
template <class Call>
inline Placements placements;

template <class Call, class Struct, class T>
void set_field(Call& call, const Field<Struct, T>& field, signed char at, PyObject* const* objects) {
    if (at != kNotGiven) call.*field.member = Argument<T>::from(Call::kName, field.name, objects[at]);
}

template <class Call, std::size_t... k>
void set_fields(Call& call, PyObject* const* objects, Py_ssize_t positional, PyObject* names,
                std::index_sequence<k...>) {
    static_assert(sizeof...(k) <= kMostFields);
    const Placement placement =
        placements<Call>.find(Call::kName, kFieldNames<Call>.data(), sizeof...(k), positional, names);
    (set_field(call, std::get<k>(Call::kFields), placement.object[k], objects), ...);
}

template <class Result, class Call>
PyObject* call_entry(Result (*entry)(const Call&), PyObject* const* objects, Py_ssize_t positional,
                     PyObject* names) noexcept {
    try {
        Call call;
        set_fields(call, objects, positional, names, FieldIndices<Call>{});
        return entry(call).release().ptr();
    } catch (...) {
        set_python_error(Call::kName);
        return nullptr;
    }
}

template <auto kEntry>
PyObject* fast_call(PyObject*, PyObject* const* objects, Py_ssize_t positional, PyObject* names) noexcept {
    return call_entry(kEntry, objects, positional, names);
}

template <class Result, class Call>
constexpr const char* name_of(Result (*)(const Call&)) {
    return Call::kName;
}

// Adds the operation to the module.
template <auto kEntry>
void def_fast(py::module_& m) {
    constexpr const char* kName = name_of(kEntry);
    const auto function = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&fast_call<kEntry>));
    static PyMethodDef definition{kName, function, METH_FASTCALL | METH_KEYWORDS, nullptr};
    const py::object module_name = m.attr("__name__");
    m.attr(kName) = py::reinterpret_steal<py::object>(PyCFunction_NewEx(&definition, nullptr, module_name.ptr()));
}

}  // namespace bnfast::bindings
