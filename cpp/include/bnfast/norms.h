// Normalizations whose statistics are a sample's own.
#pragma once

#include <cstdint>
#include <optional>

#include "bnfast/batch_norm.h"
#include "bnfast/export.h"

namespace bnfast {

// Group normalization (Wu & He 2018): statistics of groups of neighbouring channels of each sample, axis 0 of x. The
// channels are to be a multiple of `groups`. Otherwise as batch_norm; `where` is absent.
BNFAST_API void group_norm(const NormInputs& inputs, std::int64_t groups, const NormOptions& options,
                           const TensorView& y, NormState& state);

// Instance normalization (Ulyanov, Vedaldi & Lempitsky 2016): as group_norm, with a group for each channel.
BNFAST_API void instance_norm(const NormInputs& inputs, const NormOptions& options, const TensorView& y,
                              NormState& state);

// Layer normalization (Ba, Kiros & Hinton 2016) over the last axes of x, from options.axis on, with what stands before
// it in a Transformer: h = residual + dropout(x), y = act(norm(h)). `h` is there where there is a residual or dropout,
// and is written; it is what backward takes for x.
BNFAST_API void layer_norm(const NormInputs& inputs, const NormOptions& options, const TensorView& y,
                           const std::optional<TensorView>& h, NormState& state);

// Root mean square normalization (Zhang & Sennrich 2019): as layer_norm, about zero and without beta.
BNFAST_API void rms_norm(const NormInputs& inputs, const NormOptions& options, const TensorView& y,
                         const std::optional<TensorView>& h, NormState& state);

// How many numbers the state of such a call on x takes: the size for OwnedNormState.
BNFAST_API std::int64_t group_norm_state_size(const TensorView& x, std::int64_t groups, int axis);
BNFAST_API std::int64_t instance_norm_state_size(const TensorView& x, int axis);
BNFAST_API std::int64_t layer_norm_state_size(const TensorView& x, int axis);

// Gradients of any of these. dgamma and dbeta are sums over the samples, or rows, in a fixed order.
BNFAST_API void norm_backward(const NormBackwardInputs& inputs, const NormState& state, const NormGradients& gradients);

}  // namespace bnfast
