// Which entry of a `where` of smaller shape belongs to which element of x.
#pragma once

#include <cstdint>

#include "bnfast/tensor.h"

namespace bnfast {

// Fills the strides of `where` along x's dimensions: zero where it is broadcast, and along the channel axis, which it
// lacks or has with length 1. False where its shape does not fit.
bool broadcast_strides(const TensorView& where, const TensorView& x, int axis, std::int64_t* strides);

// A `where` as a view of x's shape, but for one channel. The tensor that it was made of must outlive it.
class WhereView {
  public:
    WhereView(const TensorView& where, const TensorView& x, int axis);
    WhereView(const WhereView&) = delete;
    WhereView& operator=(const WhereView&) = delete;
    const TensorView& get() const { return view_; }

  private:
    TensorView view_;
    std::int64_t shape_[kMaxDims], strides_[kMaxDims];
};

}  // namespace bnfast
