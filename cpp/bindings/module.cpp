// The extension module bnfast._core: a table of contents.
#include "bnfast/runtime.h"
#include "register.h"

PYBIND11_MODULE(_core_of_main_interpreter, m) {
    m.doc() = "The compiled part of bnfast. Use the functions of the package, which document it.";
    m.attr("__version__") = bnfast::version();
    bnfast::bindings::register_runtime(m);
    bnfast::bindings::register_library(m);
    bnfast::bindings::register_unfinished_array(m);
    bnfast::bindings::register_contexts(m);
    bnfast::bindings::register_moments(m);
    bnfast::bindings::register_batch_norm(m);
    bnfast::bindings::register_norms(m);
    bnfast::bindings::register_dropout(m);
}

// What Python calls. pybind11's own start waits for ever for the GIL of the main interpreter in any other one (before
// 3.12, or where they share a GIL), and NumPy supports no other one either.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {  // NOLINT(bugprone-reserved-identifier): Python's name
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "bnfast: imported in a sub-interpreter, expected the main interpreter");
        return nullptr;
    }
    return PyInit__core_of_main_interpreter();
}
