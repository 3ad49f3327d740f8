// A normalization call, checked: what a backend takes, whatever its device.
#pragma once

#include <optional>

#include "bnfast/norm_options.h"
#include "bnfast/norm_state.h"
#include "bnfast/tensor.h"
#include "numerics/mask.h"
#include "problem/layout.h"

namespace bnfast {

// What follows the affine map, in this order: y = dropout(activation(z + residual)).
struct Epilogue {
    std::optional<TensorView> residual;
    Activation activation = Activation::kNone;
    double activation_slope = 0.01;
    DropoutMask dropout{0, 0, kKeepAll};
    double dropout_scale = 1.0;  // of the elements that are kept

    bool has_dropout() const { return dropout.keep != kKeepAll; }
};

// What stands before the norm: h = residual + dropout(x) is normalised in place of x. Backward: dx is the gradient at h
// behind the same dropout.
struct Prologue {
    bool used = false;
    std::optional<TensorView> residual;
    DropoutMask dropout{0, 0, kKeepAll};
    double dropout_scale = 1.0;
};

// The tensors that a call does not have are absent. Whatever is there has been checked: shapes and dtypes fit x.
struct NormProblem {
    TensorView x;                 // backward: h, where forward had a prologue
    std::optional<TensorView> h;  // forward writes it, where it has a prologue
    std::optional<TensorView> where;
    std::optional<TensorView> y;              // forward writes it
    std::optional<TensorView> dy, dh;         // backward reads them: dh is added to the gradient at x
    std::optional<TensorView> dx, dresidual;  // backward writes them
    Layout layout;                            // of x in the order of memory
    Centre centre = Centre::kMean;
    double eps = 1e-5;
    EpsPlacement eps_placement = EpsPlacement::kVar;
    Prologue prologue;
    Epilogue epilogue;
    bool from_output = false;          // backward: x holds y, which forward wrote over it
    bool constant_statistics = false;  // backward: mean and var do not depend on x
    // The statistics and parameters, in memory of x's device: forward fills them, backward reads them.
    StateNumbers numbers;
    // Backward writes a number a parameter.
    double* dgamma = nullptr;
    double* dbeta = nullptr;
};

}  // namespace bnfast
