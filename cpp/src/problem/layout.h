// Shape, strides and axes become a Geometry: which elements share a statistic and parameters, and in what order they
// lie.
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

// What the statistics of a call are taken over. `axis` counts from the front: of the channels, or the first of the last
// axes that are normalised together.
struct NormAxes {
    Scope scope = Scope::kBatch;
    int axis = 0;
    std::int64_t groups = 0;  // of the channels, where the scope is theirs; 0: each is one by itself
};

// Which gamma and beta belong to an element: those of its channel, or those of its place among the inner elements.
enum class ParameterMap : int { kOfChannel, kAlongInner };

// A tensor as `samples` boxes of one Geometry, one after the other along axis 0, or as a single box. Channels are its
// finest parts of one statistic: `share` neighbouring ones have the same statistic. Channel c of box k is number
// n = k * geometry.channels + c of the call and has statistic n / share. Of P parameters (gamma, beta) it has number
// n % P, or, along inner, from number n * inner % P on.
//
//   batch norm     one box, its channels                            a statistic and parameters each
//   group norm     a box for each sample, its channels              C / groups share a statistic, parameters each
//   layer norm     one box, a channel for each index of the others  a statistic each, parameters along inner
//   group norm of (N, C): one box, a channel for each sample and group, parameters along inner
//
// The dimensions around the channel axis stand in the order in which the elements of x lie in memory, slowest first;
// the last axes of layer norm in that of their indices. Blocks, and so every bit of a result, depend on that order and
// on the shape.
struct Layout {
    NormAxes axes;
    std::int64_t samples = 1;
    Dims outer_dims, channel_dims, inner_dims;
    Geometry geometry;
    std::int64_t share = 1;
    ParameterMap parameters = ParameterMap::kOfChannel;
    bool splits_axis = false;  // a channel is a part of the inner dimension, and not of channel_dims

    bool boxes_are_samples() const { return axes.scope == Scope::kGroup && !splits_axis; }
    std::int64_t channels() const { return samples * geometry.channels; }
    std::int64_t statistics() const { return channels() / share; }
    std::int64_t elements() const { return channels() * geometry.outer * geometry.inner; }
    // All dimensions, slowest first.
    Dims all_dims() const;
    friend bool same_order(const Layout& a, const Layout& b) {
        return a.outer_dims == b.outer_dims && a.inner_dims == b.inner_dims;
    }
};

Layout memory_layout(const TensorView& x, const NormAxes& axes);
// The order of the indices whatever the strides, as the elements of a dropout mask are counted.
Layout index_layout(const TensorView& x, const NormAxes& axes);

}  // namespace bnfast
