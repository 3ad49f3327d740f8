// Dropout on the CPU: runs of elements shared out among threads.
#pragma once

#include <cstdint>

#include "problem/dropout_problem.h"

namespace bnfast::cpu {

void dropout(const DropoutProblem& problem);

// One byte for each element of the runs, in C order: 1 where it is kept.
void expand_mask(const DropoutMask& mask, const MaskRuns& runs, std::uint8_t* out);

}  // namespace bnfast::cpu
