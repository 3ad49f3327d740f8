// Shape, strides and channel axis become (outer, channels, inner).
#pragma once

#include <memory>
#include <vector>

#include "bnfast/batch_norm.h"
#include "cpu/kernels/table.h"

namespace bnfast::api {

using cpu::Geometry;
using cpu::Operand;

// The order in which a tensor's elements lie in memory: dimensions around the channel axis, slowest first. Taken from
// the strides of x; blocks, and so every bit of a result, depend on it and on the shape alone.
struct LayoutOrder {
    int channel_axis = 0;
    std::vector<int> outer_dims, inner_dims;
    Geometry geometry;
};

LayoutOrder layout_order(const TensorView& x, int axis);
// The order of the indices whatever the strides, as the elements of a dropout mask are counted.
LayoutOrder index_order(const TensorView& x, int axis);
// Whether both are the same.
bool lies_in_index_order(const TensorView& x, int axis);

// A tensor in the given order: in place where its strides allow, otherwise in a dense copy that this object owns.
class OrderedTensor {
  public:
    enum class Use { kRead, kWrite };

    OrderedTensor() = default;
    OrderedTensor(const TensorView& view, const LayoutOrder& order, Use use);

    const Operand& operand() const { return operand_; }
    // Copies what was written back to the caller's memory, where it was not written in place.
    void finish();

  private:
    TensorView view_;
    const LayoutOrder* order_ = nullptr;
    Operand operand_;
    std::unique_ptr<char[]> packed_;
};

// The where bits in the given order. Empty where the view has no data. `fits` says that the shapes match.
struct OrderedWhere {
    std::vector<std::uint8_t> bytes;
    cpu::WhereBits bits;
};
bool where_fits(const WhereView& where, const TensorView& x, int axis);
OrderedWhere order_where(const WhereView& where, const TensorView& x, const LayoutOrder& order);

}  // namespace bnfast::api
