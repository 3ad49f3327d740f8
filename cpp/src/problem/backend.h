// A backend: what one kind of device does with a checked call, as a struct of function pointers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "bnfast/moments.h"
#include "problem/dropout_problem.h"
#include "problem/norm_problem.h"

namespace bnfast {

// How little of gamma still lets x be computed from y: |gamma| is to be at least |beta| * of_beta, and at least
// `absolute`.
struct SmallestGamma {
    double of_beta, absolute;
};

// Vectors of float32 or float64 with a number for each channel. gamma and beta are 1 and 0 where absent.
struct ChannelInputs {
    std::optional<TensorView> gamma, beta, mean, var;
};

// What a backend found among per-channel numbers.
struct FoundNumber {
    std::int64_t channel;
    double value, least;  // the number, and what it had to be at least
};

// Functions over the memory of a device. Arguments were checked before, and none of these throws but std::bad_alloc.
// Whatever looks at an element of a tensor is here: the rest of the library only knows shapes.
struct Backend {
    const char* name;

    // --- questions about numbers that lie on the device ---
    // The first entry of a vector of float32 or float64 that is below zero, if any.
    std::optional<FoundNumber> (*first_negative)(const TensorView& values);
    // The first of so many channels whose gamma is too small.
    std::optional<FoundNumber> (*first_small_gamma)(const ChannelInputs&, std::int64_t channels, const SmallestGamma&);
    // The elements of each statistic that take part.
    std::int64_t (*count_taking_part)(const NormProblem&);

    // --- what fills the state ---
    // gamma and beta; and mean and var, as moments of one element, where they are there.
    void (*set_channels)(const NormProblem&, const ChannelInputs&);
    // Statistics that somebody else has measured.
    void (*set_statistics)(const NormProblem&, const Moments&);

    // --- passes over tensors ---
    void (*moments)(const NormProblem&, Moments&);
    // Measures x, fills the state with its statistics and writes y.
    void (*forward)(const NormProblem&);
    // Writes y with the statistics in the state, whose invstd it fills.
    void (*normalise)(const NormProblem&);
    // Writes y with the given numbers, and needs no state.
    void (*inference)(const NormProblem&, const ChannelInputs&);
    void (*gradient_sums)(const NormProblem&, GradientSums&);
    // Writes dx, dresidual, dgamma and dbeta.
    void (*backward)(const NormProblem&);
    // The same, where x is a part of the batch that `total` sums over.
    void (*backward_with_sums)(const NormProblem&, const GradientSums& total);
    void (*dropout)(const DropoutProblem&);
    // One byte for each element of the runs, in C order: 1 where it is kept.
    void (*dropout_mask)(const DropoutMask&, const MaskRuns&, std::uint8_t* mask);

    // --- memory of the device; bnfast/memory.h says what each means ---
    void* (*allocate)(const Device&, std::size_t bytes);
    void (*release)(const Device&, void* memory);
    void (*copy_to_host)(const Device&, void* to, const void* from, std::size_t bytes);
    void (*copy_from_host)(const Device&, void* to, const void* from, std::size_t bytes);
    void (*store_numbers)(const double* values, const double* divisors, const TensorView& out);
    void (*order)(const Device& earlier, const Device& later);
};

// The backend of a device, or null where there is none.
const Backend* backend_of(Device::Type device);
// Why backend_of() is null, as a sentence without its full stop.
const char* why_no_backend(Device::Type device);
// For a build with other backends, and for tests: `device` is one of Device::Type. Null: the one that belongs there.
void set_backend(Device::Type device, const Backend* backend);

}  // namespace bnfast
