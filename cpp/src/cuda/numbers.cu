// The launches of kernels on numbers of channels, copies and masks.
#include "cuda/numbers.h"

namespace bnfast::cuda {
namespace {

// Blocks for so many elements, each of which takes a thread little time.
Grid grid_for(std::int64_t elements) {
    Grid grid;
    const std::int64_t wanted = (elements + grid.threads - 1) / grid.threads;
    const std::int64_t most = std::int64_t{properties().processors} * 16;
    grid.blocks = wanted < 1 ? 1 : wanted < most ? wanted : most;
    return grid;
}

template <class Element>
void launch_copy(const StridedCopy& copy, Stream stream) {
    CopyKernel<Element> kernel;
    kernel.strided = static_cast<char*>(copy.strided);
    kernel.dense = static_cast<Element*>(copy.dense);
    kernel.place = copy.place;
    kernel.elements = copy.elements;
    kernel.direction = copy.direction;
    launch(kernel, grid_for(copy.elements), stream);
}

}  // namespace

void fill_numbers(const FillNumbersKernel& rows, Stream stream) {
    if (rows.entries > 0) launch(rows, grid_for(rows.entries), stream);
}

void launch_rounded(const StoreNumbersKernel& numbers, Stream stream) {
    if (numbers.entries > 0) launch(numbers, grid_for(numbers.entries), stream);
}

void add_rows(const AddRowsKernel& rows, Stream stream) {
    if (rows.entries == 0) return;
    Grid grid = grid_for(rows.entries * (kMostThreads / kWarp));
    grid.shared_bytes = kMostThreads * sizeof(double);
    launch(rows, grid, stream);
}

void copy_strided(const StridedCopy& copy, std::int64_t element_bytes, Stream stream) {
    if (copy.elements == 0) return;
    switch (element_bytes) {
        case 8: return launch_copy<std::uint64_t>(copy, stream);
        case 4: return launch_copy<std::uint32_t>(copy, stream);
        case 2: return launch_copy<std::uint16_t>(copy, stream);
        default: return launch_copy<std::uint8_t>(copy, stream);
    }
}

void expand_mask(const MaskKernel& mask, Stream stream) {
    if (mask.elements > 0) launch(mask, grid_for(mask.elements), stream);
}

}  // namespace bnfast::cuda
