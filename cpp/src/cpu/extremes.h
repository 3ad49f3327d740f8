// float64 channels so large or so small that the squares of their deviations are beyond float64.
#pragma once

#include "cpu/bound_problem.h"

namespace bnfast::cpu {

// To be called when moments and invstd have been computed from x. Measures such channels again, times a power of two,
// and corrects what came out wrong: mean and invstd. m2 becomes what float64 can say of it.
void measure_extremes(const BoundProblem& problem, const Statistics& statistics);

}  // namespace bnfast::cpu
