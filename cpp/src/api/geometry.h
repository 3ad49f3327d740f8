// Shape, strides and channel axis become (outer, channels, inner).
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "bnfast/batch_norm.h"
#include "cpu/kernels/table.h"

namespace bnfast::api {

using cpu::Geometry;
using cpu::Operand;

// Some of a tensor's dimensions in an order. No allocation.
class Dims {
  public:
    void push_back(int d) { dims_[count_++] = static_cast<unsigned char>(d); }
    void append(const Dims& others) {
        for (const int d : others) push_back(d);
    }
    bool empty() const { return count_ == 0; }
    int size() const { return count_; }
    int operator[](int k) const { return dims_[k]; }
    const unsigned char* begin() const { return dims_; }
    const unsigned char* end() const { return dims_ + count_; }
    unsigned char* begin() { return dims_; }
    unsigned char* end() { return dims_ + count_; }
    friend bool operator==(const Dims& a, const Dims& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

  private:
    int count_ = 0;
    unsigned char dims_[kMaxDims];
};

// The order in which a tensor's elements lie in memory: dimensions around the channel axis, slowest first. Taken from
// the strides of x; blocks, and so every bit of a result, depend on it and on the shape alone.
struct LayoutOrder {
    int channel_axis = 0;
    Dims outer_dims, inner_dims;
    Geometry geometry;
};

LayoutOrder layout_order(const TensorView& x, int axis);
// The order of the indices whatever the strides, as the elements of a dropout mask are counted.
LayoutOrder index_order(const TensorView& x, int axis);
// Whether both are the same.
bool lies_in_index_order(const TensorView& x, int axis);

// Whether a call sums over the elements of channels.
enum class Sums { kNone, kTaken };
// Whether short planes or narrow rows are walked several at once: a matter of the shape alone, as is every bit of sums.
bool goes_flat(const Geometry& geometry, Sums sums);

// Whether nothing lies between one plane and that of the next channel, or between one row and the next.
bool runs_touch(const TensorView& view, const LayoutOrder& order);

// A tensor in the given order: in place where its strides allow, otherwise in a dense copy that this object owns.
class OrderedTensor {
  public:
    enum class Use { kRead, kWrite };

    // The view and the order must outlive this object.
    void bind(const TensorView& view, const LayoutOrder& order, Use use);

    const Operand& operand() const { return operand_; }
    // Copies what was written back to the caller's memory, where it was not written in place.
    void finish();

  private:
    const TensorView* view_ = nullptr;
    const LayoutOrder* order_ = nullptr;
    Use use_ = Use::kRead;
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
