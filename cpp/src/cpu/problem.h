// A batch normalization call, checked and reduced to geometry: what the backends take.
#pragma once

#include "bnfast/batch_norm.h"
#include "cpu/kernels/table.h"
#include "numerics/mask.h"

namespace bnfast::cpu {

// The operands that a call does not use have no data.
struct Problem {
    DType dtype = DType::kFloat32;
    Geometry geometry;
    Operand x, residual, y, dy, dx, dresidual;
    WhereBits where;
    Activation activation = Activation::kNone;
    double activation_slope = 0.01;
    bool from_output = false;  // backward: x holds y, which forward wrote over it
    DropoutBits dropout{0, 0, kKeepAll};
    double dropout_scale = 1.0;
    std::int64_t all_channels = 0;  // of the tensor, where this problem is a range of its channels
    std::int64_t first_channel = 0;
    std::uint64_t* kept_bits = nullptr;  // as KeepBits::store
    std::int64_t kept_bits_pitch = 0;
    double eps = 1e-5;
    EpsPlacement eps_placement = EpsPlacement::kVar;

    bool has_residual() const { return residual.data != nullptr; }
    bool has_dropout() const { return dropout.keep != kKeepAll; }
    // Backward needs the residual only to recompute the pre-activation.
    bool backward_reads_residual() const { return has_residual() && activation != Activation::kNone; }
    std::int64_t elements() const { return geometry.outer * geometry.channels * geometry.inner; }
    std::int64_t channel_elements() const { return geometry.outer * geometry.inner; }
};

// Per-channel float64 arrays, one entry a channel: the statistics that a call makes or is given.
struct ChannelStatistics {
    double *count, *mean, *mean_low, *m2, *invstd, *gamma, *beta;
};

}  // namespace bnfast::cpu
