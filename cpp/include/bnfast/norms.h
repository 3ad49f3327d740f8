// Normalizations whose statistics are a sample's own.
#pragma once

#include <cstdint>

#include "bnfast/batch_norm.h"

namespace bnfast {

// How many numbers the state of an instance_norm on x takes: the size for OwnedNormState.
std::int64_t instance_norm_state_size(const TensorView& x, int axis);

// Instance normalization (Ulyanov, Vedaldi & Lempitsky 2016): statistics of each channel of each sample, axis 0 of x.
// Otherwise as batch_norm; `where` is absent.
void instance_norm(const NormInputs& inputs, const NormOptions& options, const TensorView& y, NormState& state);

// Gradients of instance_norm. dgamma and dbeta are sums over the samples, in their order.
void norm_backward(const NormBackwardInputs& inputs, const NormState& state, const NormGradients& gradients);

}  // namespace bnfast
