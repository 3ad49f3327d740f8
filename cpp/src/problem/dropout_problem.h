// A dropout call, checked: what a backend takes, whatever its device.
#pragma once

#include <cstdint>
#include <vector>

#include "bnfast/tensor.h"
#include "numerics/mask.h"

namespace bnfast {

// The elements of a tensor in C order, as runs of the trailing dimensions, which have either an element of the mask
// each or a single one together. The dimensions before them number the runs.
struct MaskRuns {
    int first_dim = 0;                       // of those along which a run goes
    std::int64_t length = 1;                 // elements of a run
    bool constant = false;                   // one element of the mask for each run
    std::vector<std::int64_t> shape;         // of the dimensions that number the runs, slowest first
    std::vector<std::int64_t> mask_strides;  // elements of the mask a step in each

    std::int64_t count() const;
};

// broadcast[d]: along dimension d of the shape, all elements have the same bit of the mask.
MaskRuns mask_runs(const std::int64_t* shape, int ndim, const std::vector<bool>& broadcast);

// y = kept ? x * scale + shift : dropped. x and y have at least one dimension.
struct DropoutProblem {
    TensorView x, y;
    DropoutMask mask;
    double scale = 1.0, shift = 0.0, dropped = 0.0;
    MaskRuns runs;
};

}  // namespace bnfast
