// The kernels of one element type, BNFAST_ELEMENT: which of them a call gets, and their launch.
#include "cuda/kernels/backward.h"
#include "cuda/kernels/forward.h"
#include "cuda/kernels/table.h"
#include "cuda/plan.h"

namespace bnfast::cuda {
namespace {

using S = BNFAST_ELEMENT;
using T = Compute<S>;
constexpr int kWidest = kVectorBytes / static_cast<int>(sizeof(S));
constexpr int kWidestInRows = kWidest < kMostOfVector ? kWidest : kMostOfVector;

bool is_plain(const NormTask& task) {
    const bool simple = task.activation == Activation::kNone || task.activation == Activation::kRelu;
    const bool before = task.input.is_there() || task.mask_before.used;
    return simple && !before && task.where == nullptr && !task.mask.used && !task.from_output;
}

// Calls f with the kernel for a task: for the widest vectors that its tensors have, and plain or not.
template <template <class> class Kernel, int kCount, bool kRows, class F>
void with_vectors(const NormTask& task, const F& f) {
    // float64 has kernels for all that a call may have only: they are slow to compile, and seldom used.
    constexpr bool kMayBePlain = sizeof(S) < 8;
    if (kMayBePlain && is_plain(task)) {
        f(Kernel<Walk<S, kCount, kRows, kMayBePlain>>{task});
    } else {
        f(Kernel<Walk<S, kCount, kRows, false>>{task});
    }
}
template <template <class> class Kernel, class F>
void with_kernel(const NormTask& task, bool rows, const F& f) {
    const int count = vector_of(task, rows, sizeof(S), rows ? kWidestInRows : kWidest);
    if (rows) {
        count == kWidestInRows ? with_vectors<Kernel, kWidestInRows, true>(task, f)
                               : with_vectors<Kernel, 1, true>(task, f);
    } else {
        count == kWidest ? with_vectors<Kernel, kWidest, false>(task, f) : with_vectors<Kernel, 1, false>(task, f);
    }
}

template <class Kernel>
KernelShape shape_of(const Kernel&, bool rows) {
    KernelShape shape;
    shape.rows = rows;
    shape.count = Kernel::kCount;
    shape.size = sizeof(S);
    return shape;
}

// --- forward ----------------------------------------------------------------------------------------------------

void forward(NormTask& task, bool rows, Stream stream) {
    with_kernel<ForwardKernel>(task, rows, [&](auto kernel) {
        KernelShape shape = shape_of(kernel, rows);
        shape.tiles = task.measures ? 1 : 0;
        if (task.writes) shape.staged_parameter_bytes = 2 * sizeof(T);
        TeamMemory memory;
        const Grid grid = plan(shape, kernel.task, memory, stream);
        if (grid.blocks > 0) launch(kernel, grid, stream);
    });
}

// --- backward ---------------------------------------------------------------------------------------------------

// dgamma and dbeta along the inner elements, where they are no by-product.
std::int64_t sum_parameters(const NormTask& task, DeviceMemory<double>& partials, Stream stream) {
    constexpr std::int64_t kMostParts = 64, kRowsOfPart = 32;
    ParameterSumsKernel<Walk<S, 1, false, false>> kernel{task};
    const std::int64_t period = task.parameter_count / task.inner;
    kernel.task.work.units_of_box = Divider(task.channels / task.share.divisor());
    kernel.rows = task.boxes * task.channels / period * task.outer;
    const std::int64_t parts = (kernel.rows + kRowsOfPart - 1) / kRowsOfPart;
    kernel.parts = static_cast<int>(parts < kMostParts ? parts : kMostParts);
    partials = DeviceMemory<double>(kernel.parts * 2 * task.parameter_count, stream);
    kernel.task.parameter_partials = partials.get();
    kernel.task.mask.window = kernel.task.mask_before.window = -1;
    kernel.task.work.parameters_staged = false;
    Grid grid;
    grid.blocks = (task.parameter_count + grid.threads - 1) / grid.threads * kernel.parts;
    launch(kernel, grid, stream);
    return kernel.parts;
}

std::int64_t backward(NormTask& task, bool rows, DeviceMemory<double>& partials, Stream stream) {
    std::int64_t partial_rows = 0;
    const bool along = task.parameters == ParametersAre::kAlongInner && !task.sums;
    with_kernel<BackwardKernel>(task, rows, [&](auto kernel) {
        KernelShape shape = shape_of(kernel, rows);
        shape.tiles = task.residual.is_there() ? 3 : 2;
        if (along) {
            shape.staged_parameter_bytes = 2 * sizeof(T);
            shape.parameter_sum_bytes = 2 * sizeof(typename ParameterSumOf<S>::Type);
        }
        TeamMemory memory;
        const Grid grid = plan(shape, kernel.task, memory, stream);
        if (along && kernel.task.work.parameters_staged) {
            partial_rows = grid.blocks / kernel.task.work.team;
            const std::int64_t numbers = partial_rows * 2 * task.parameter_count;
            partials = DeviceMemory<double>(numbers, stream);
            fill_with_zeros(partials.get(), static_cast<std::size_t>(numbers) * sizeof(double), stream);
            kernel.task.parameter_partials = partials.get();
        } else if (along) {  // first, as dx may go over dy
            partial_rows = sum_parameters(task, partials, stream);
        }
        if (grid.blocks > 0) launch(kernel, grid, stream);
    });
    return partial_rows;
}

// --- dropout ----------------------------------------------------------------------------------------------------

template <int kCount>
void launch_dropout(const DropoutTask& task, Stream stream) {
    Grid grid;
    const std::int64_t warps = grid.threads / kWarp, of_block = warps * kPortion;
    grid.shared_bytes = warps * window_bytes(kPortion);
    const std::int64_t wanted = (task.elements + of_block - 1) / of_block;
    const std::int64_t most = std::int64_t{properties().processors} * 32;
    grid.blocks = wanted < most ? wanted : most;
    launch(DropoutKernel<S, kCount>{task}, grid, stream);
}
void dropout(const DropoutTask& task, bool vectors, Stream stream) {
    vectors ? launch_dropout<kWidest>(task, stream) : launch_dropout<1>(task, stream);
}

}  // namespace

template <>
const ElementKernels& kernels_of_element<S>() {
    static constexpr ElementKernels kKernels{&forward, &backward, &dropout};
    return kKernels;
}

}  // namespace bnfast::cuda
