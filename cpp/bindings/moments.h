// Moments and GradientSums of Python as those of C++, and back.
#pragma once

#include "arrays.h"
#include "bnfast/moments.h"

namespace bnfast::bindings {

// TypeError unless the object is an instance of bnfast.Moments, or bnfast.GradientSums.
Moments moments_of(const char* operation, const char* name, const py::handle& object);
GradientSums gradient_sums_of(const char* operation, const char* name, const py::handle& object);

py::object moments_object(const Moments& moments);
py::object gradient_sums_object(const GradientSums& sums);

}  // namespace bnfast::bindings
