// Per-channel arrays of the caller (gamma, beta, mean, var) as float64, converted on the threads that will use them.
#pragma once

#include <cstdint>

#include "cpu/kernels/table.h"
#include "cpu/scratch.h"
#include "problem/norm_problem.h"

namespace bnfast::cpu {

// What out[c] is filled from: float32 or float64 numbers `stride` bytes apart, or `absent` where there are none. Where
// they have several dimensions that are not evenly spaced, `view` is those.
struct ChannelValues {
    const void* source = nullptr;
    std::int64_t stride = 0;
    const TensorView* view = nullptr;
    bool is_double = true;
    double absent = 0.0;
    double* out = nullptr;
};

// Fills `count` arrays for the channels of a tensor of so many elements.
void fill_channels(const ChannelValues* values, int count, std::int64_t channels, std::int64_t elements);

// Parameters that lie along the inner elements of a call, in the type that kernels compute in.
AlongInner parameters_along(Scratch& scratch, const NormProblem& problem);

}  // namespace bnfast::cpu
