// Dropout on a GPU: which way a tensor's elements are walked, and the launch.
#pragma once

#include "problem/dropout_problem.h"

namespace bnfast::cuda {

void dropout(const DropoutProblem& problem);
// One byte for each element of the runs, in C order, in memory of the first GPU: 1 where it is kept.
void dropout_mask(const DropoutMask& mask, const MaskRuns& runs, std::uint8_t* out);

}  // namespace bnfast::cuda
