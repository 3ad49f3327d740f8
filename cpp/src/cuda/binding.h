// A normalization call bound to memory of a GPU: its tensors as operands, in place or as dense copies.
#pragma once

#include <optional>

#include "cuda/kernels/copy.h"
#include "cuda/runtime.h"
#include "problem/norm_problem.h"

namespace bnfast::cuda {

// The stream of a call.
inline Stream stream_of(const TensorView& x) { return x.device.stream; }

// The dimensions of a view in the order of its indices, slowest first; and the strides of a dense tensor in that order,
// of elements of `unit`.
Dims index_order(const TensorView& view);
void dense_strides(const TensorView& view, std::int64_t unit, std::int64_t* strides);
// Whether all elements lie at multiples of their size.
bool lies_on_items(const TensorView& view);

// The strides of `view` along some dimensions, slowest first, as a map from the number of an element: false where they
// cannot be merged to as few as the map has room for.
template <int kMost>
bool map_dims(const unsigned char* dims, int count, const std::int64_t* shape, const std::int64_t* strides,
              IndexMapOf<kMost>& map) {
    map.count = 0;
    std::int64_t size[kMost] = {};
    for (int k = count - 1; k >= 0; --k) {
        const std::int64_t length = shape[dims[k]], stride = strides[dims[k]];
        if (length == 1) continue;
        const int last = map.count - 1;
        if (last >= 0 && stride == map.stride[last] * size[last]) {
            size[last] *= length;
        } else {
            if (map.count == kMost) return false;
            size[map.count] = length;
            map.stride[map.count++] = stride;
        }
    }
    for (int d = 0; d < map.count; ++d) map.size[d] = Divider(size[d]);
    return true;
}

// Copies between a view and dense memory in the order of these dimensions, slowest first.
void copy_dims(const TensorView& view, const Dims& dims, void* dense, Direction direction, Stream stream);

// A tensor in the order of a layout.
class BoundTensor {
  public:
    enum class Use { kRead, kWrite };

    BoundTensor() = default;
    // The view must outlive this object.
    BoundTensor(const TensorView& view, const Layout& layout, Use use, Stream stream);
    const Operand& operand() const { return operand_; }
    // Copies what was written back to the caller's memory, where it was not written in place.
    void finish();

  private:
    const TensorView* view_ = nullptr;
    Use use_ = Use::kRead;
    Stream stream_ = nullptr;
    Dims dims_;
    Operand operand_;
    DeviceMemory<char> dense_;
};

class Binding {
  public:
    // The problem must outlive this object.
    explicit Binding(const NormProblem& problem);
    Binding(const Binding&) = delete;
    Binding& operator=(const Binding&) = delete;

    // All but the work, and what is to be computed.
    const NormTask& task() const { return task_; }
    bool rows() const { return rows_; }
    const Layout& layout() const { return layout_; }
    bool is_empty() const { return layout_.elements() == 0; }
    // To be called when all is launched.
    void finish();

  private:
    bool add_masks();
    void describe();
    void bind_tensors();

    const NormProblem& problem_;
    Layout layout_;
    Stream stream_;
    NormTask task_;
    bool rows_ = false;
    static constexpr int kMostTensors = 6;  // of a call; no call has all operands
    BoundTensor bound_[kMostTensors];
    int count_ = 0;
    DeviceMemory<std::uint8_t> where_;
};

// A `where` as a byte for each outer and inner element of the layout, and their number.
DeviceMemory<std::uint8_t> dense_where(const TensorView& where, const TensorView& x, const Layout& layout,
                                       std::int64_t& count);

}  // namespace bnfast::cuda
