// Batch normalization: statistics, forward, backward (Ioffe & Szegedy 2015).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bnfast/tensor.h"

namespace bnfast {

enum class Activation : int { kNone, kRelu, kLeakyRelu, kSigmoid, kTanh, kSilu, kGelu, kElu };

// Where eps goes: sqrt(var + eps) or sqrt(var) + eps.
enum class EpsPlacement : int { kVar, kStd };

// A truth value for every element of x without its channel axis (or with that axis of length 1), any strides.
struct WhereView : Strided {
    const void* data = nullptr;  // null: every element takes part
};

// Statistics of a batch: count, mean (as mean + mean_low) and sum of squared deviations of each channel.
struct Moments {
    std::vector<double> count, mean, mean_low, m2;
};

// Sums of the gradient dy at the affine's output (after the activation's derivative), and of dy * (x - mean).
struct GradientSums {
    std::vector<double> count, sum_dy, sum_dy_xmu;
};

struct BatchNormOptions {
    int axis = 1;
    double eps = 1e-5;
    EpsPlacement eps_placement = EpsPlacement::kVar;
    Activation activation = Activation::kNone;
    double activation_slope = 0.01;
    double dropout = 0.0;  // rate; inverted scaling, mask as in bnfast/dropout.h
    std::uint64_t seed = 0, offset = 0;
};

// Views without data are absent. gamma, beta: float32 or float64, one entry a channel.
struct BatchNormInputs {
    TensorView x, gamma, beta, residual;
    WhereView where;
};

// What backward needs beyond the tensors: per-channel numbers only. Can be moved, not copied.
struct BatchNormSaved {
    BatchNormOptions options;
    bool frozen = false;  // mean and var are constants
    bool has_gamma = false;
    bool has_beta = false;
    bool in_place = false;       // y was written over x, and backward works from y
    bool foreign_stats = false;  // statistics of another batch than x: backward needs that batch's sums
    std::int64_t channels = 0;
    void resize(std::int64_t num_channels);
    double* count() { return row(0); }
    double* mean() { return row(1); }
    double* mean_low() { return row(2); }
    double* m2() { return row(3); }
    double* invstd() { return row(4); }
    double* gamma() { return row(5); }
    double* beta() { return row(6); }

  private:
    double* row(std::int64_t k) { return values.get() + k * channels; }
    std::unique_ptr<double[]> values;  // the arrays above, one after the other
};

// Each function checks its arguments before it writes anything and throws ValueError or TypeError with a message of the
// form "operation: argument got, expected". y, dx and dresidual have x's shape and dtype.

Moments moments(const TensorView& x, const WhereView& where, int axis);

// y may be exactly the memory of x where x can be computed from it again: an activation that can be undone, no
// residual, dropout or where, and no gamma that is (nearly) zero. The inputs of backward then have y as x.
void batch_norm(const BatchNormInputs& inputs, const BatchNormOptions& options, const Moments* stats,
                const TensorView& y, BatchNormSaved& saved);

void batch_norm_inference(const BatchNormInputs& inputs, const TensorView& mean, const TensorView& var,
                          const BatchNormOptions& options, const TensorView& y);

// As inference, and fills what backward needs: mean and var are constants there. y may be the memory of x as above.
void batch_norm_frozen(const BatchNormInputs& inputs, const TensorView& mean, const TensorView& var,
                       const BatchNormOptions& options, const TensorView& y, BatchNormSaved& saved);

GradientSums batch_norm_backward_sums(const BatchNormInputs& inputs, const TensorView& dy, BatchNormSaved& saved);

// dgamma and dbeta have one entry a channel. dresidual may be absent. total: null, or the sums of the whole batch.
void batch_norm_backward(const BatchNormInputs& inputs, const TensorView& dy, BatchNormSaved& saved,
                         const GradientSums* total, const TensorView& dx, const TensorView& dresidual, double* dgamma,
                         double* dbeta);

}  // namespace bnfast
