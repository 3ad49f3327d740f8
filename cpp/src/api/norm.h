// What the front desks of all normalizations share: checks of a forward and of a backward call, and the
// NormProblem that they pass to the backend.
#pragma once

#include <cstdint>

#include "api/checks.h"
#include "bnfast/batch_norm.h"
#include "problem/backend.h"

namespace bnfast::api {

// The name of a call in messages, and over which elements it takes statistics.
struct Operation {
    const char* name;
    Scope scope;
};

// A checked call: its Problem, and the backend of its device.
struct Call {
    const Backend* backend;
    NormProblem problem;
    int axis;  // of the channels, counted from the front
};

// The numbers that the state of a call on x takes.
std::int64_t state_size(const Operation& operation, const TensorView& x, int axis);

// Checks everything that forward calls have in common, and says in the state what the call is.
Call begin_forward(const Operation& operation, const NormInputs& inputs, const NormOptions& options,
                   const TensorView& y, NormState& state);
// Checks the room for the state's numbers, and fills in those that a forward call is given.
void fill_state(const Operation& operation, const ChannelInputs& channels, Call& call, const NormState& state);
// To be called before y is written, where backward is to follow. Where y is to go over x, backward must find x in y
// again: ValueError if it could not.
void check_in_place(const Operation& operation, const NormInputs& inputs, Call& call, NormState& state);

// Checks what backward reads, and compares it with the forward call that filled the state.
Call begin_backward(const Operation& operation, const NormBackwardInputs& inputs, const NormState& state);
// Checks what backward writes.
void add_gradients(const Operation& operation, const NormBackwardInputs& inputs, const NormGradients& gradients,
                   Call& call);

}  // namespace bnfast::api
