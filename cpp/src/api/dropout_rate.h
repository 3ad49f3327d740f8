// The numbers that a dropout rate stands for.
#pragma once

#include <cmath>

#include "numerics/mask.h"

namespace bnfast::api {

inline DropoutBits dropout_bits(double rate, std::uint64_t seed, std::uint64_t offset) {
    return {seed, offset, static_cast<std::uint64_t>(std::nearbyint((1.0 - rate) * static_cast<double>(kKeepAll)))};
}

// The factor of the kept elements in inverted dropout.
inline double dropout_scale(double rate) { return rate < 1.0 ? 1.0 / (1.0 - rate) : 0.0; }

}  // namespace bnfast::api
