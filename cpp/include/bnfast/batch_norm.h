// Batch normalization: statistics, forward, backward (Ioffe & Szegedy 2015).
#pragma once

#include <cstdint>
#include <optional>

#include "bnfast/export.h"
#include "bnfast/moments.h"
#include "bnfast/norm_options.h"
#include "bnfast/norm_state.h"
#include "bnfast/tensor.h"

namespace bnfast {

// What a forward call reads. All tensors are on x's device.
struct NormInputs {
    TensorView x;
    std::optional<TensorView> gamma, beta;  // float32 or float64; 1 and 0 where absent. One entry a channel; in layer
                                            // and RMS norm the shape of the normalised axes.
    std::optional<TensorView> residual;     // x's shape and dtype, added before the activation; in layer and RMS norm
                                            // before the norm
    std::optional<TensorView> where;        // bool, x's shape without the channel axis or with one of length 1;
                                            // broadcast. Elements where it is false take no part. Batch norm only.
};

// What backward reads: the tensors of the forward call, which must hold what they held then (y in x's place where y was
// written over it), and dy. After layer and RMS norm x is h, and the residual, which is in it, is absent.
struct NormBackwardInputs {
    TensorView x;
    std::optional<TensorView> residual, where;
    TensorView dy;
    std::optional<TensorView> dh;  // the gradient that reaches h by another way; after layer and RMS norm only
};

// What backward writes: dx and dresidual of x's shape and dtype, and dgamma and dbeta, a number for each parameter on
// x's device: needed also where gamma and beta were absent. dresidual is there if the forward call had a residual;
// after layer and RMS norm only if it had dropout, too, as dx is the gradient of both without.
struct NormGradients {
    TensorView dx;
    std::optional<TensorView> dresidual;
    double* dgamma = nullptr;
    double* dbeta = nullptr;
};

// Each function checks its arguments before it writes anything and throws ValueError or TypeError with a message of the
// form "operation: argument got, expected". y, dx and dresidual have x's shape and dtype.

// How many numbers the state of a batch_norm on x takes: the size for OwnedNormState.
BNFAST_API std::int64_t batch_norm_state_size(const TensorView& x, int axis);

BNFAST_API Moments moments(const TensorView& x, const std::optional<TensorView>& where, int axis);

// y may be written over x, in exactly its memory, where x can be recovered from y: an activation that can be undone, no
// residual, dropout or where, and no gamma that is (nearly) zero. The inputs of backward then have y as x.
BNFAST_API void batch_norm(const NormInputs& inputs, const NormOptions& options, const TensorView& y, NormState& state);

// The same with the given statistics, such as those of a batch that several processes share, in place of x's own.
BNFAST_API void batch_norm_with_stats(const NormInputs& inputs, const NormOptions& options, const Moments& stats,
                                      const TensorView& y, NormState& state);

// mean and var are float32 or float64, one entry a channel.
BNFAST_API void batch_norm_inference(const NormInputs& inputs, const TensorView& mean, const TensorView& var,
                                     const NormOptions& options, const TensorView& y);

// As batch_norm_inference, and fills the state: backward takes mean and var for constants. y may be written over x as
// above.
BNFAST_API void batch_norm_frozen(const NormInputs& inputs, const TensorView& mean, const TensorView& var,
                                  const NormOptions& options, const TensorView& y, NormState& state);

BNFAST_API GradientSums batch_norm_backward_sums(const NormBackwardInputs& inputs, const NormState& state);

BNFAST_API void batch_norm_backward(const NormBackwardInputs& inputs, const NormState& state,
                                    const NormGradients& gradients);

// The same where x is one worker's part of a batch: `total` are the sums over all workers. dgamma and dbeta are those
// of the part.
BNFAST_API void batch_norm_backward_with_sums(const NormBackwardInputs& inputs, const NormState& state,
                                              const GradientSums& total, const NormGradients& gradients);

}  // namespace bnfast
