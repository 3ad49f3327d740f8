// The dropout behind an activation as kernels take it, and where its mask is stored between the two sweeps of backward.
#pragma once

#include "cpu/bound_problem.h"
#include "cpu/schedule.h"
#include "cpu/scratch.h"

namespace bnfast::cpu {

MaskTask mask_task_of(const BoundProblem& problem);

// Room for the bits that the first sweep makes for the second one, where no two tasks of the first sweep make bits of
// the same word of rows, or for the same outer index of planes (long ones that threads share are in groups of one
// channel). The first sweep then makes all of them, and the second one only reads, however it is cut: an outer index
// that is shorter than a batch might be served by the bits made for the one before, and is not stored.
void take_stored_mask(Scratch& scratch, const Blocks& blocks, const BlockSweep& sweep, bool alone, BoundProblem& group);

}  // namespace bnfast::cpu
