// Functions that take their arguments as CPython passes them: pybind11's own dispatch of fifteen arguments would be a
// fifteenth of the instructions of a call on (32, 64).
#pragma once

#include <climits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "arrays.h"

namespace bnfast::bindings {

// Sets the Python error for the exception that is being handled, in a call of this name.
void set_python_error(const char* operation) noexcept;
// Whether the object is a real number, and none of the kinds that only convert to one: bool, complex, arrays.
bool is_real(const py::handle& object);

// How a Python object becomes an argument of type T; throws for one that does not.
template <class T>
struct Argument;

template <>
struct Argument<const py::object&> {
    static py::object from(PyObject* object) { return py::reinterpret_borrow<py::object>(object); }
};
template <>
struct Argument<double> {
    static double from(PyObject* object) {
        if (!PyFloat_Check(object) && !is_real(object)) throw TypeError("an argument is no real number");
        const double value = PyFloat_AsDouble(object);
        if (value != -1.0 || !PyErr_Occurred()) return value;
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) throw py::error_already_set();
        PyErr_Clear();
        throw TypeError("an argument is out of range");
    }
};
template <>
struct Argument<int> {
    static int from(PyObject* object) {
        // NumPy's bool has an index, too, or warns that it will not.
        if (!PyLong_CheckExact(object) && !is_real(object)) throw TypeError("an argument is no integer");
        const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(object));
        if (!index) throw py::error_already_set();
        int overflow = 0;
        const long value = PyLong_AsLongAndOverflow(index.ptr(), &overflow);
        if (overflow != 0 || value < INT_MIN || value > INT_MAX) throw TypeError("an argument is out of range");
        return static_cast<int>(value);
    }
};
template <>
struct Argument<std::uint64_t> {
    static std::uint64_t from(PyObject* object) {
        if (!PyLong_CheckExact(object)) throw TypeError("an argument is no integer");
        const unsigned long long value = PyLong_AsUnsignedLongLong(object);
        if (value == ~0ULL && PyErr_Occurred()) throw py::error_already_set();
        return value;
    }
};
template <>
struct Argument<bool> {
    static bool from(PyObject* object) { return object == Py_True; }
};
template <>
struct Argument<const char*> {
    static const char* from(PyObject* object) {
        const char* text = PyUnicode_AsUTF8(object);
        if (text == nullptr) throw py::error_already_set();
        return text;
    }
};
template <>
struct Argument<const std::vector<int>&> {
    static std::vector<int> from(PyObject* object) {
        if (!PyTuple_Check(object)) throw TypeError("expected a tuple of int");
        std::vector<int> values(static_cast<std::size_t>(PyTuple_GET_SIZE(object)));
        for (std::size_t i = 0; i < values.size(); ++i) {
            values[i] = Argument<int>::from(PyTuple_GET_ITEM(object, static_cast<Py_ssize_t>(i)));
        }
        return values;
    }
};
// An instance of a class that pybind11 knows.
template <class T>
struct Argument<T&> {
    static T& from(PyObject* object) {
        py::detail::make_caster<T> caster;
        if (!caster.load(object, false)) throw TypeError("an argument is of another class");
        // pybind11 hands out memory without an object where __new__ was called, but neither __init__ nor __setstate__.
        const auto holder = reinterpret_cast<py::detail::instance*>(object)->get_value_and_holder();
        if (!holder.holder_constructed()) throw TypeError("an argument was made without its state");
        return py::detail::cast_op<T&>(caster);
    }
};

template <class Result, class... Arguments, std::size_t... k>
PyObject* call_entry(Result (*entry)(Arguments...), PyObject* const* objects, std::index_sequence<k...>) {
    std::tuple<decltype(Argument<Arguments>::from(nullptr))...> arguments{Argument<Arguments>::from(objects[k])...};
    return entry(std::get<k>(arguments)...).release().ptr();
}
template <class Result, class... Arguments>
PyObject* call_entry(Result (*entry)(Arguments...), PyObject* const* objects, Py_ssize_t count) {
    if (count != static_cast<Py_ssize_t>(sizeof...(Arguments))) {
        throw TypeError("got " + std::to_string(count) + " arguments, expected " +
                        std::to_string(sizeof...(Arguments)));
    }
    return call_entry(entry, objects, std::index_sequence_for<Arguments...>{});
}

template <auto kEntry>
const char* name_of = nullptr;  // set by def_fast

template <auto kEntry>
PyObject* fast_call(PyObject*, PyObject* const* objects, Py_ssize_t count) noexcept {
    try {
        return call_entry(kEntry, objects, count);
    } catch (...) {
        set_python_error(name_of<kEntry>);
        return nullptr;
    }
}

// Adds the function to the module, for positional arguments.
template <auto kEntry>
void def_fast(py::module_& m, const char* name) {
    name_of<kEntry> = name;
    const auto function = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&fast_call<kEntry>));
    static PyMethodDef definition{name, function, METH_FASTCALL, nullptr};
    const py::object module_name = m.attr("__name__");
    m.attr(name) = py::reinterpret_steal<py::object>(PyCFunction_NewEx(&definition, nullptr, module_name.ptr()));
}

}  // namespace bnfast::bindings
