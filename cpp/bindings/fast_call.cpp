// The arguments of fast calls: which object belongs to which field, and what it must be.
#include "fast_call.h"

#include "gil.h"

namespace bnfast::bindings {
namespace {

std::string argument(const char* operation, const char* name) { return std::string(operation) + ": " + name; }

std::string type_name(const py::handle& object) {
    return std::string(py::str(py::type::handle_of(object).attr("__name__")));
}

// Whether the object is a real number, and none of the kinds that only convert to one: bool, complex, arrays.
bool is_real(const py::handle& object) {
    if (PyLong_Check(object.ptr()) != 0) return PyBool_Check(object.ptr()) == 0;
    static PyObject* check = nullptr;
    return call_python(imported_once(check, "bnfast._checks", "is_real"), object).ptr() == Py_True;
}

[[noreturn]] void refuse_kind(const char* operation, const char* name, PyObject* object, const char* expected) {
    throw TypeError(argument(operation, name) + " is of type " + type_name(object) + ", expected " + expected);
}
[[noreturn]] void refuse_number(const char* operation, const char* name, const py::handle& number,
                                const std::string& expected) {
    throw ValueError(argument(operation, name) + " is " + std::string(py::str(number)) + ", expected " + expected);
}

Placement placement_of(const char* operation, const FieldName* fields, int num_fields, Py_ssize_t positional,
                       PyObject* names) {
    Placement placement;
    for (signed char& object : placement.object) object = kNotGiven;
    if (positional > num_fields) {
        throw TypeError(std::string(operation) + ": got " + std::to_string(positional) +
                        " positional arguments, expected at most " + std::to_string(num_fields));
    }
    for (Py_ssize_t k = 0; k < positional; ++k) placement.object[k] = static_cast<signed char>(k);
    const Py_ssize_t named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
    for (Py_ssize_t k = 0; k < named; ++k) {
        PyObject* const name = PyTuple_GET_ITEM(names, k);
        int f = 0;
        while (f < num_fields && PyUnicode_CompareWithASCIIString(name, fields[f].name) != 0) ++f;
        if (f == num_fields) {
            throw TypeError(std::string(operation) + ": got an argument " + std::string(py::repr(name)) +
                            ", expected those of " + fields[0].name + " .. " + fields[num_fields - 1].name);
        }
        if (placement.object[f] != kNotGiven) throw TypeError(argument(operation, fields[f].name) + " is given twice");
        placement.object[f] = static_cast<signed char>(positional + k);
    }
    for (int f = 0; f < num_fields; ++f) {
        if (fields[f].required && placement.object[f] == kNotGiven) {
            throw TypeError(argument(operation, fields[f].name) + " is missing");
        }
    }
    return placement;
}

}  // namespace

double real_argument(const char* operation, const char* name, PyObject* object) {
    if (!PyFloat_Check(object) && !is_real(object)) {
        throw TypeError(argument(operation, name) + " has type " + type_name(object) + ", expected float");
    }
    const double value = PyFloat_AsDouble(object);
    if (value != -1.0 || !PyErr_Occurred()) return value;
    if (!PyErr_ExceptionMatches(PyExc_OverflowError)) throw py::error_already_set();
    PyErr_Clear();
    throw ValueError(argument(operation, name) + " is beyond float64, expected a finite number");
}

int int_argument(const char* operation, const char* name, PyObject* object) {
    // is_real comes first, as bools have an index, too, or warn that they will not have one.
    const bool may_have_index = PyLong_CheckExact(object) || is_real(object);
    if (!may_have_index || !PyIndex_Check(object)) refuse_kind(operation, name, object, "an integer");
    const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(object));
    if (!index) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError)) throw py::error_already_set();
        PyErr_Clear();
        refuse_kind(operation, name, object, "an integer");  // an array of floats
    }
    int overflow = 0;
    const long value = PyLong_AsLongAndOverflow(index.ptr(), &overflow);
    if (overflow != 0 || value < INT_MIN || value > INT_MAX) {
        refuse_number(operation, name, index, std::to_string(INT_MIN) + " .. " + std::to_string(INT_MAX));
    }
    return static_cast<int>(value);
}

std::uint64_t uint64_argument(const char* operation, const char* name, PyObject* object) {
    if (!PyLong_CheckExact(object)) refuse_kind(operation, name, object, "an integer");
    const unsigned long long value = PyLong_AsUnsignedLongLong(object);
    if (value == ~0ULL && PyErr_Occurred()) {
        PyErr_Clear();
        refuse_number(operation, name, object, "0 .. " + std::to_string(~0ULL));
    }
    return value;
}

std::vector<int> ints_argument(const char* operation, const char* name, PyObject* object) {
    if (!PyTuple_Check(object)) refuse_kind(operation, name, object, "a tuple of int");
    std::vector<int> values(static_cast<std::size_t>(PyTuple_GET_SIZE(object)));
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = int_argument(operation, name, PyTuple_GET_ITEM(object, static_cast<Py_ssize_t>(i)));
    }
    return values;
}

void refuse_class(const char* operation, const char* name, PyObject* object, const py::handle& expected) {
    throw TypeError(argument(operation, name) + " has type " + type_name(object) + ", expected " +
                    std::string(py::str(expected.attr("__name__"))));
}

Placement Placements::add(const char* operation, const FieldName* fields, int num_fields, Py_ssize_t positional,
                          PyObject* names) {
    const Placement placement = placement_of(operation, fields, num_fields, positional, names);
    Kept& kept = kept_[next_];
    next_ = (next_ + 1) % kMostKept;
    PyObject* const forgotten = kept.names;
    Py_XINCREF(names);
    kept = {names, positional, placement};
    Py_XDECREF(forgotten);  // at the end, as it may run Python code
    return placement;
}

}  // namespace bnfast::bindings
