// Bernoulli dropout (Srivastava et al. 2014) with a mask that is a function of (seed, offset, element index) alone.
#pragma once

#include <cstdint>
#include <vector>

#include "bnfast/tensor.h"

namespace bnfast {

// Inverted: kept elements are scaled by 1 / (1 - rate). Classic: they are not. Alpha (Klambauer et al. 2017): dropped
// ones become a constant and the result is brought back to mean 0 and variance 1.
enum class DropoutMode : int { kInverted, kClassic, kAlpha };

struct DropoutOptions {
    double rate = 0.5;  // probability that an element is dropped
    std::uint64_t seed = 0;
    std::uint64_t offset = 0;
    DropoutMode mode = DropoutMode::kInverted;
    std::vector<int> broadcast_axes;  // counted as length 1 in the mask
};

// y = dropout(x); with `backward`, dx from dy. y may be x's memory. `operation` names the call in messages.
void dropout(const char* operation, const TensorView& x, const DropoutOptions& options, bool backward,
             const TensorView& y);
// One byte an element of a dense array of x's shape: 1 where it is kept.
void dropout_mask(const std::vector<std::int64_t>& shape, const DropoutOptions& options, std::uint8_t* mask);
// y = x * factor.
void scale(const char* operation, const TensorView& x, double factor, const TensorView& y);

}  // namespace bnfast
