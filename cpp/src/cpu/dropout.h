// Dropout on the CPU: runs of elements shared out among threads.
#pragma once

#include <vector>

#include "bnfast/dropout.h"
#include "cpu/kernels/table.h"
#include "cpu/problem.h"

namespace bnfast::cpu {

// x and y as outer x channels runs of inner elements. Mask indices: of run (o, c), the strides below give the first.
struct DropoutProblem {
    DType dtype = DType::kFloat32;
    Geometry geometry;
    Operand x, y;
    DropoutBits bits;
    double scale = 1.0, shift = 0.0, dropped = 0.0;
    bool constant_runs = false;                // one mask element for each run
    std::vector<std::int64_t> prefix_shape;    // the dimensions that number the runs, slowest first
    std::vector<std::int64_t> prefix_strides;  // mask elements a step in each
};

void dropout(const DropoutProblem& problem);

// One byte an element, of the mask elements that the prefix and the runs of `run` elements name.
void expand_mask(const DropoutProblem& problem, std::int64_t run, std::uint8_t* out);

}  // namespace bnfast::cpu
