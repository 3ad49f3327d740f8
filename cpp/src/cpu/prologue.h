// What stands before the norm, on the CPU: h = residual + dropout(x).
#pragma once

#include "cpu/bound_problem.h"

namespace bnfast::cpu {

// Writes problem.x, which is h, from the prologue's operands.
PrologueTask prologue_task(const BoundProblem& problem);
void apply_prologue(const BoundProblem& problem, int threads);

// The dropout of the prologue, for backward, which dx comes from.
MaskTask mask_before(const BoundProblem& problem);

}  // namespace bnfast::cpu
