// A box of a normalization call as the CPU sees it: operands in memory that kernels can walk. A box is one sample, or
// the whole batch where statistics are those of all samples.
#pragma once

#include <initializer_list>

#include "bnfast/norm_options.h"
#include "bnfast/tensor.h"
#include "cpu/kernels/table.h"
#include "numerics/mask.h"

namespace bnfast::cpu {

// What stands before the norm. Forward: x, which the norm reads, is first written, as residual + dropout(input).
// Backward: dx is made from the gradient at x by the same dropout.
struct BoundPrologue {
    bool used = false;
    DropoutMask dropout{0, 0, kKeepAll};
    double dropout_scale = 1.0;
};

struct BoundProblem {
    DType dtype = DType::kFloat32;
    Geometry geometry;
    std::int64_t share = 1;  // neighbouring channels of one statistic
    AlongInner along;
    Centre centre = Centre::kMean;
    BoundPrologue prologue;
    Operand input, input_residual;  // of the prologue
    Operand x, residual, y, dy, dh, dx, dresidual;
    WhereBits where;
    Activation activation = Activation::kNone;
    double activation_slope = 0.01;
    bool from_output = false;  // backward: x holds y, which forward wrote over it
    DropoutMask dropout{0, 0, kKeepAll};
    double dropout_scale = 1.0;
    StoredMask stored_mask;
    std::int64_t all_channels = 0;   // of the box, where this problem is a range of its channels
    std::int64_t first_channel = 0;  // in the dropout mask: runs of the mask before this problem's first channel
    double eps = 1e-5;
    EpsPlacement eps_placement = EpsPlacement::kVar;

    bool has_residual() const { return residual.is_there(); }
    bool has_dropout() const { return dropout.keep != kKeepAll; }
    // Backward needs the residual only to recompute the pre-activation.
    bool backward_reads_residual() const { return has_residual() && activation != Activation::kNone; }
    std::int64_t statistics() const { return geometry.channels / share; }
    std::int64_t elements() const { return geometry.outer * geometry.channels * geometry.inner; }
    std::int64_t channel_elements() const { return geometry.outer * geometry.inner; }
};

// The operands of a problem, for what is to be done to each of them.
constexpr Operand BoundProblem::* kOperands[] = {
    &BoundProblem::input,     &BoundProblem::input_residual,
    &BoundProblem::x,         &BoundProblem::residual,
    &BoundProblem::y,         &BoundProblem::dy,
    &BoundProblem::dh,        &BoundProblem::dx,
    &BoundProblem::dresidual,
};

// The float64 numbers of a box's statistics, an entry each, and the parameters of all channels: channel c has the gamma
// and beta of number (first + c) % parameters.
struct Statistics {
    double* count = nullptr;
    double* mean = nullptr;
    double* mean_low = nullptr;
    double* m2 = nullptr;
    double* invstd = nullptr;
    const double* gamma = nullptr;
    const double* beta = nullptr;
    std::int64_t first = 0;
    std::int64_t parameters = 1;
    std::int64_t share = 1;  // channels of one statistic

    // Those from a channel on, which is the first one of its statistic.
    Statistics from(std::int64_t channel) const {
        Statistics part = *this;
        for (double* Statistics::* row :
             {&Statistics::count, &Statistics::mean, &Statistics::mean_low, &Statistics::m2, &Statistics::invstd}) {
            part.*row += channel / share;
        }
        part.first += channel;
        return part;
    }
};

}  // namespace bnfast::cpu
