// Per-channel statistics and sums of the C face as the C++ ones, and back. They are small, and copied.
#pragma once

#include "bnfast/bnfast.h"
#include "bnfast/moments.h"

namespace bnfast::c {

Moments moments_of(const char* operation, const char* name, const bnfast_moments* moments);
GradientSums sums_of(const char* operation, const char* name, const bnfast_gradient_sums* sums);

// ValueError where `to` is not for as many channels.
void copy(const char* operation, const char* name, const Moments& from, const bnfast_moments* to);
void copy(const char* operation, const char* name, const GradientSums& from, const bnfast_gradient_sums* to);

}  // namespace bnfast::c
