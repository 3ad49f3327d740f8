// What the front desks of all normalizations share: checks of a forward and of a backward call, and the
// NormProblem that they pass to the backend.
#pragma once

#include <cstdint>

#include "api/checks.h"
#include "bnfast/batch_norm.h"
#include "problem/backend.h"

namespace bnfast::api {

// The name of a call in messages, and over which elements it takes statistics, about what.
struct Operation {
    const char* name;
    Scope scope = Scope::kBatch;
    std::int64_t groups = 0;  // of the channels, where the scope is theirs; 0: each is one by itself
    Centre centre = Centre::kMean;

    // Whether residual and dropout stand before the norm, and not behind it.
    bool has_prologue() const { return scope == Scope::kLastAxes; }
};

// A checked call: its Problem, and the backend of its device.
struct Call {
    const Backend* backend;
    NormProblem problem;
    NormState state;            // of forward: the caller's gets it when all has been checked
    int axis;                   // as in NormAxes
    bool has_residual = false;  // of backward: forward had one
};

// The numbers that the state of a call on x takes.
std::int64_t state_size(const Operation& operation, const TensorView& x, int axis);

// Checks everything that forward calls have in common.
Call begin_forward(const Operation& operation, const NormInputs& inputs, const NormOptions& options,
                   const TensorView& y);
// Checks the tensor that what stands before the norm goes to.
void add_h(const Operation& operation, const NormInputs& inputs, const TensorView& y,
           const std::optional<TensorView>& h, Call& call);
// Checks the memory of the state, and that backward will find x in y again where y is to go over x. Then fills the
// state but for what is measured. Nothing has been written before, and nothing is refused after.
void finish_checks(const Operation& operation, const NormInputs& inputs, const TensorView& y,
                   const ChannelInputs& channels, Call& call, NormState& state);

// Checks what backward reads, and compares it with the forward call that filled the state.
Call begin_backward(const Operation& operation, const NormBackwardInputs& inputs, const NormState& state);
// Checks what backward writes.
void add_gradients(const Operation& operation, const NormBackwardInputs& inputs, const NormGradients& gradients,
                   Call& call);

}  // namespace bnfast::api
