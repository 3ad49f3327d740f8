// What stands before the norm, on the CPU: h = residual + dropout(x), and dx from the gradient at h.
#pragma once

#include "cpu/bound_problem.h"

namespace bnfast::cpu {

// Writes problem.x, which is h, from the prologue's operands.
void apply_prologue(const BoundProblem& problem, int threads);
// Writes problem.dx from the gradient at h, which is in `gradient`: the kept elements, scaled.
void apply_prologue_backward(const BoundProblem& problem, const Operand& gradient, int threads);

}  // namespace bnfast::cpu
