// Per-channel arrays of the caller (gamma, beta, mean, var) as float64, converted on the threads that will use them.
#pragma once

#include <cstdint>

namespace bnfast::cpu {

// What out[c] is filled from: float32 or float64 numbers `stride` bytes apart, or `absent` where there are none.
struct ChannelValues {
    const void* source = nullptr;
    std::int64_t stride = 0;
    bool is_double = true;
    double absent = 0.0;
    double* out = nullptr;
};

// Fills `count` arrays for the channels of a tensor of so many elements.
void fill_channels(const ChannelValues* values, int count, std::int64_t channels, std::int64_t elements);

}  // namespace bnfast::cpu
