// Shape, strides and channel axis become a Geometry: which elements share a statistic, and in what order they lie.
#pragma once

#include <algorithm>
#include <cstdint>

#include "bnfast/norm_options.h"
#include "bnfast/tensor.h"
#include "numerics/blocks.h"

namespace bnfast {

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
    friend bool operator==(const Dims& a, const Dims& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

  private:
    int count_ = 0;
    unsigned char dims_[kMaxDims];
};

// A tensor as `samples` boxes of one Geometry, one after the other along axis 0 where statistics are a sample's own,
// and otherwise as a single box. Statistic s of box k is number k * geometry.channels + s of the call, and has the
// parameters (gamma, beta) of number s.
//
// The dimensions around the channel axis stand in the order in which the elements of x lie in memory, slowest first.
// Blocks, and so every bit of a result, depend on that order and on the shape.
struct Layout {
    int channel_axis = 0;
    Scope scope = Scope::kBatch;
    std::int64_t samples = 1;
    Dims outer_dims, inner_dims;
    Geometry geometry;

    std::int64_t statistics() const { return samples * geometry.channels; }
    std::int64_t elements() const { return samples * geometry.outer * geometry.channels * geometry.inner; }
    // All dimensions, slowest first.
    Dims all_dims() const;
    friend bool same_order(const Layout& a, const Layout& b) {
        return a.outer_dims == b.outer_dims && a.inner_dims == b.inner_dims;
    }
};

Layout memory_layout(const TensorView& x, int axis, Scope scope);
// The order of the indices whatever the strides, as the elements of a dropout mask are counted.
Layout index_layout(const TensorView& x, int axis, Scope scope);

}  // namespace bnfast
