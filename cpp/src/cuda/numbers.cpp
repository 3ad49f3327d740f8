// Numbers of channels: where views have them.
#include "cuda/numbers.h"

#include <stdexcept>

#include "bnfast/layout.h"
#include "cuda/binding.h"

namespace bnfast::cuda {
NumberRow number_row(const TensorView& view, double* out, std::vector<DeviceMemory<char>>& copies, Stream stream) {
    NumberRow row;
    row.source = static_cast<const char*>(view.data);
    row.is_double = view.dtype == DType::kFloat64;
    row.out = out;
    const Dims dims = index_order(view);
    if (lies_on_items(view) && map_dims(dims.begin(), dims.size(), view.shape, view.strides, row.place)) return row;
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
    const Dims dims = index_order(out);
    if (!map_dims(dims.begin(), dims.size(), out.shape, out.strides, kernel.place)) {
        throw std::runtime_error("bnfast: numbers go to an array of fewer dimensions than this one");
    }
    launch_rounded(kernel, stream);
}

}  // namespace bnfast::cuda
