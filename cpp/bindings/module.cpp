// The extension module bnfast._core: a table of contents.
#include "register.h"

PYBIND11_MODULE(_core, m) {
    m.doc() = "The compiled part of bnfast. Use the functions of the package, which document it.";
    m.attr("__version__") = BNFAST_VERSION;
    bnfast::bindings::register_runtime(m);
    bnfast::bindings::register_batch_norm(m);
    bnfast::bindings::register_dropout(m);
}
