// Numbers of channels: where views have them.
#include "cuda/numbers.h"

#include <stdexcept>

#include "bnfast/layout.h"
#include "cuda/binding.h"

namespace bnfast::cuda {
namespace {

Dims all_dims(const TensorView& view) {
    Dims dims;
    for (int d = 0; d < view.ndim; ++d) dims.push_back(d);
    return dims;
}
bool is_aligned(const TensorView& view) {
    const std::int64_t item = item_size(view.dtype);
    bool aligned = reinterpret_cast<std::uintptr_t>(view.data) % static_cast<std::uintptr_t>(item) == 0;
    for (int d = 0; d < view.ndim; ++d) aligned = aligned && view.strides[d] % item == 0;
    return aligned;
}

}  // namespace

NumberRow number_row(const TensorView& view, double* out, std::vector<DeviceMemory<char>>& copies, Stream stream) {
    NumberRow row;
    row.source = static_cast<const char*>(view.data);
    row.is_double = view.dtype == DType::kFloat64;
    row.out = out;
    const Dims dims = all_dims(view);
    if (is_aligned(view) && map_dims(dims.begin(), dims.size(), view.shape, view.strides, 1, row.place)) return row;
    const std::int64_t item = item_size(view.dtype), bytes = elements_of(view) * item;
    if (bytes == 0) return row;
    copies.emplace_back(bytes, stream);
    copy_dims(view, dims, copies.back().get(), Direction::kToDense, stream);
    row.source = copies.back().get();
    row.place.count = 1;
    row.place.size[0] = Divider(elements_of(view));
    row.place.stride[0] = item;
    return row;
}

void store_rounded(const double* values, const double* divisors, const TensorView& out, Stream stream) {
    StoreNumbersKernel kernel;
    kernel.values = values;
    kernel.divisors = divisors;
    kernel.out = static_cast<char*>(out.data);
    kernel.is_double = out.dtype == DType::kFloat64;
    kernel.entries = elements_of(out);
    const Dims dims = all_dims(out);
    if (!map_dims(dims.begin(), dims.size(), out.shape, out.strides, 1, kernel.place)) {
        throw std::runtime_error("bnfast: numbers go to an array of fewer dimensions than this one");
    }
    launch_rounded(kernel, stream);
}

}  // namespace bnfast::cuda
