// How a call is cut for a chip: teams of blocks, and what each keeps in its shared memory.
#pragma once

#include "cuda/kernels/task.h"
#include "cuda/runtime.h"

namespace bnfast::cuda {

// What a kernel is like.
struct KernelShape {
    bool rows = false;
    int count = 1;                            // elements of a vector
    std::int64_t size = 4;                    // bytes of an element
    int tiles = 1;                            // operands that are staged; 0: nothing is
    std::int64_t staged_parameter_bytes = 0;  // of gamma and beta of an element, where they may be staged
    std::int64_t parameter_sum_bytes = 0;     // of their gradients, if these are summed in shared memory
};

// The memory by which blocks talk; to be kept until the launch.
struct TeamMemory {
    DeviceMemory<double> exchange;
    DeviceMemory<std::uint32_t> arrivals;
};

// Fills task.work, and where in shared memory windows of the masks are.
Grid plan(const KernelShape& shape, NormTask& task, TeamMemory& memory, Stream stream);

// The widest vector of at most `most` elements in which a task can be walked.
int vector_of(const NormTask& task, bool rows, std::int64_t size, int most);

}  // namespace bnfast::cuda
