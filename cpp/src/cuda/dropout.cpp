// Dropout on a GPU: which way a tensor's elements are walked, and the launch.
#include "cuda/dropout.h"

#include "bnfast/layout.h"
#include "cuda/binding.h"
#include "cuda/kernels/table.h"
#include "cuda/numbers.h"

namespace bnfast::cuda {
namespace {

// Mask elements a step in each dimension of x.
void mask_strides(const DropoutProblem& problem, std::int64_t* strides) {
    const MaskRuns& runs = problem.runs;
    std::int64_t stride = runs.constant ? 0 : 1;
    for (int d = problem.x.ndim - 1; d >= runs.first_dim; --d) {
        strides[d] = stride;
        stride *= problem.x.shape[d];
    }
    for (int d = 0; d < runs.first_dim; ++d) strides[d] = runs.mask_strides[static_cast<std::size_t>(d)];
}

// x and y have elements where elements can be.
void run(const DropoutProblem& problem, const TensorView& x, const TensorView& y, Stream stream) {
    DropoutTask task;
    task.x = static_cast<char*>(x.data);
    task.y = static_cast<char*>(y.data);
    task.mask = problem.mask;
    task.scale = problem.scale;
    task.shift = problem.shift;
    task.dropped = problem.dropped;
    const std::int64_t item = item_size(x.dtype);
    std::int64_t mask[kMaxDims], size[kMaxDims];
    mask_strides(problem, mask);
    unsigned char order[kMaxDims];
    memory_order(x, order);
    task.elements = 1;
    for (int k = x.ndim - 1; k >= 0; --k) {  // fastest first
        const int d = order[k];
        task.elements *= x.shape[d];
        if (x.shape[d] == 1) continue;
        const std::int64_t x_stride = x.strides[d] / item, y_stride = y.strides[d] / item;
        const int last = task.dims - 1;
        if (last >= 0 && x_stride == task.x_stride[last] * size[last] && y_stride == task.y_stride[last] * size[last] &&
            mask[d] == task.mask_stride[last] * size[last]) {
            size[last] *= x.shape[d];
            continue;
        }
        size[task.dims] = x.shape[d];
        task.x_stride[task.dims] = x_stride;
        task.y_stride[task.dims] = y_stride;
        task.mask_stride[task.dims++] = mask[d];
    }
    if (task.elements == 0) return;
    for (int d = 0; d < task.dims; ++d) task.size[d] = Divider(size[d]);
    task.one_run = task.dims == 0 ||
                   (task.dims == 1 && task.x_stride[0] == 1 && task.y_stride[0] == 1 && task.mask_stride[0] == 1);
    const auto fits = [&](const char* data) { return reinterpret_cast<std::uintptr_t>(data) % kVectorBytes == 0; };
    const bool vectors = task.one_run && fits(task.x) && fits(task.y) && task.elements % (kVectorBytes / item) == 0;
    kernels_of(x.dtype).dropout(task, vectors, stream);
}

}  // namespace

void dropout(const DropoutProblem& problem) {
    const OnDevice device(problem.x.device.index);
    const Stream stream = stream_of(problem.x);
    if (lies_on_items(problem.x) && lies_on_items(problem.y)) return run(problem, problem.x, problem.y, stream);
    // Copies in the order of the indices.
    const std::int64_t item = item_size(problem.x.dtype);
    const DeviceMemory<char> memory(elements_of(problem.x) * item, stream);
    const Dims dims = index_order(problem.x);
    TensorView dense = problem.x;
    std::int64_t strides[kMaxDims];
    dense_strides(problem.x, item, strides);
    dense.data = memory.get();
    dense.strides = strides;
    copy_dims(problem.x, dims, memory.get(), Direction::kToDense, stream);
    run(problem, dense, dense, stream);
    copy_dims(problem.y, dims, memory.get(), Direction::kFromDense, stream);
}

void dropout_mask(const DropoutMask& mask, const MaskRuns& runs, std::uint8_t* out) {
    const OnDevice device(0);
    MaskKernel kernel;
    kernel.mask = mask;
    kernel.elements = runs.count() * runs.length;
    kernel.out = out;
    std::int64_t sizes[kMaxDims + 1], strides[kMaxDims + 1];
    unsigned char order[kMaxDims + 1];
    int count = 0;
    for (std::size_t d = 0; d < runs.shape.size(); ++d, ++count) {
        sizes[count] = runs.shape[d];
        strides[count] = runs.mask_strides[d];
    }
    sizes[count] = runs.length;
    strides[count++] = runs.constant ? 0 : 1;
    for (int d = 0; d < count; ++d) order[d] = static_cast<unsigned char>(d);
    map_dims(order, count, sizes, strides, kernel.place);
    expand_mask(kernel, nullptr);
}

}  // namespace bnfast::cuda
