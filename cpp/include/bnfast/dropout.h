// Bernoulli dropout (Srivastava et al. 2014) with a mask that is a function of (seed, offset, element index) alone.
#pragma once

#include <cstdint>
#include <vector>

#include "bnfast/export.h"
#include "bnfast/tensor.h"

namespace bnfast {

// Inverted: kept elements are scaled by 1 / (1 - rate). Classic: they are not. Alpha (Klambauer et al. 2017): dropped
// ones become a constant and the result is brought back to mean 0 and variance 1.
enum class DropoutMode : int { kInverted, kClassic, kAlpha };

struct DropoutOptions {
    double rate = 0.5;  // probability that an element is dropped
    std::uint64_t seed = 0;
    std::uint64_t offset = 0;  // names a stream of the same seed; it is not a position
    DropoutMode mode = DropoutMode::kInverted;
    std::vector<int> broadcast_axes;  // along these, all elements share one of the mask
};

// Each function checks its arguments before it writes anything and throws ValueError or TypeError.

// y = dropout(x). y may be x's memory.
BNFAST_API void dropout(const TensorView& x, const DropoutOptions& options, const TensorView& y);
// dx from dy, with the options of the forward call. dx may be dy's memory.
BNFAST_API void dropout_backward(const TensorView& dy, const DropoutOptions& options, const TensorView& dx);
// What a network without dropout computes in its place: x * (1 - rate) where the mode is classic, otherwise x.
BNFAST_API void dropout_inference(const TensorView& x, double rate, DropoutMode mode, const TensorView& y);
// dx from dy, with the rate and mode of dropout_inference.
BNFAST_API void dropout_inference_backward(const TensorView& dy, double rate, DropoutMode mode, const TensorView& dx);
// One byte an element of a dense array of that shape: 1 where it is kept. The options' mode does not matter.
BNFAST_API void dropout_mask(const std::vector<std::int64_t>& shape, const DropoutOptions& options, std::uint8_t* mask);

}  // namespace bnfast
