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

// The tensors that a call does not have are absent. Whatever is there has been checked: shapes and dtypes fit x.
struct NormProblem {
    TensorView x;
    std::optional<TensorView> where;
    std::optional<TensorView> y;                  // forward writes it
    std::optional<TensorView> dy, dx, dresidual;  // backward reads dy and writes the others
    Layout layout;                                // of x in the order of memory
    double eps = 1e-5;
    EpsPlacement eps_placement = EpsPlacement::kVar;
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
