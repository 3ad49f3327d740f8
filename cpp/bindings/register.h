// One function for each noun that the module registers.
#pragma once

#include <pybind11/pybind11.h>

namespace bnfast::bindings {

void register_runtime(pybind11::module_& m);
void register_library(pybind11::module_& m);
void register_unfinished_array(pybind11::module_& m);
void register_contexts(pybind11::module_& m);
void register_moments(pybind11::module_& m);
void register_batch_norm(pybind11::module_& m);
void register_norms(pybind11::module_& m);
void register_dropout(pybind11::module_& m);

}  // namespace bnfast::bindings
