// Shape, strides and axes become a Geometry: which elements share a statistic and parameters, and in what order they
// lie.
#include "problem/layout.h"

#include <algorithm>
#include <cstdlib>

#include "bnfast/layout.h"

namespace bnfast {
namespace {

// The layout of x over channels, whose dimensions stand in the given order, slowest first.
Layout channel_layout(const TensorView& x, const NormAxes& axes, const unsigned char* order) {
    Layout layout;
    layout.axes = axes;
    layout.channel_dims.push_back(axes.axis);
    Geometry& geometry = layout.geometry;
    const bool one_channel = x.shape[axes.axis] == 1;
    bool inside = one_channel;  // it has no place among the others: all of it is one plane
    geometry.outer = geometry.inner = 1;
    for (int k = 0; k < x.ndim; ++k) {
        const int d = order[k];
        if (axes.scope == Scope::kGroup && d == 0) {
            layout.samples = x.shape[0];
        } else if (d == axes.axis) {
            inside = true;
        } else if (x.shape[d] != 1) {
            (inside ? layout.inner_dims : layout.outer_dims).push_back(d);
            (inside ? geometry.inner : geometry.outer) *= x.shape[d];
        }
    }
    geometry.channels = x.shape[axes.axis];
    geometry.rows = layout.inner_dims.empty() && !one_channel;
    if (axes.groups > 0) layout.share = geometry.channels / axes.groups;
    return layout;
}

// A channel for each index of the dimensions before `axes.axis`, and the others as its inner elements.
Layout row_layout(const TensorView& x, const NormAxes& axes) {
    Layout layout;
    layout.axes = axes;
    layout.parameters = ParameterMap::kAlongInner;
    Geometry& geometry = layout.geometry;
    geometry.outer = geometry.channels = geometry.inner = 1;
    for (int d = 0; d < x.ndim; ++d) {
        (d < axes.axis ? layout.channel_dims : layout.inner_dims).push_back(d);
        (d < axes.axis ? geometry.channels : geometry.inner) *= x.shape[d];
    }
    return layout;
}

// Whether groups are of several channels of one element each: as planes, each would have a statistic to merge. (And
// groups of no channel have statistics, too.)
bool groups_are_rows(const TensorView& x, const NormAxes& axes) {
    const std::int64_t channels = x.shape[axes.axis];
    if (axes.groups == 0 || channels == axes.groups) return false;
    if (channels == 0) return true;
    for (int d = 1; d < x.ndim; ++d) {
        if (d != axes.axis && x.shape[d] != 1) return false;
    }
    return true;
}
Layout group_layout(const TensorView& x, const NormAxes& axes) {
    Layout layout = row_layout(x, {Scope::kLastAxes, axes.axis, 0});
    layout.axes = axes;
    layout.splits_axis = true;
    layout.geometry.channels = x.shape[0] * axes.groups;
    layout.geometry.inner = x.shape[axes.axis] / axes.groups;
    return layout;
}

Layout layout_in_order(const TensorView& x, const NormAxes& axes, const unsigned char* order) {
    if (axes.scope == Scope::kLastAxes) return row_layout(x, axes);
    return groups_are_rows(x, axes) ? group_layout(x, axes) : channel_layout(x, axes, order);
}

}  // namespace

void memory_order(const TensorView& view, unsigned char* dims) {
    const auto distance = [&](int d) { return std::abs(view.strides[d]); };
    const auto lies_in_memory = [&](int d) { return view.shape[d] != 1 && view.strides[d] != 0; };
    // Insertion: most views are in order, and in that of indices where two dimensions are as far.
    int count = 0;
    const auto insert = [&](int place, int d) {
        for (int k = count++; k > place; --k) dims[k] = dims[k - 1];
        dims[place] = static_cast<unsigned char>(d);
    };
    for (int d = 0; d < view.ndim; ++d) {
        if (!lies_in_memory(d)) continue;
        int place = count;
        while (place > 0 && distance(dims[place - 1]) < distance(d)) --place;
        insert(place, d);
    }
    for (int d = 0; count < view.ndim; ++d) {
        if (lies_in_memory(d)) continue;
        int place = 0;
        while (place < count && dims[place] < d) ++place;
        insert(place, d);
    }
}

Dims Layout::all_dims() const {
    Dims dims;
    if (boxes_are_samples()) dims.push_back(0);
    dims.append(outer_dims);
    dims.append(channel_dims);
    dims.append(inner_dims);
    return dims;
}

Layout memory_layout(const TensorView& x, const NormAxes& axes) {
    unsigned char order[kMaxDims];
    memory_order(x, order);
    return layout_in_order(x, axes, order);
}

Layout index_layout(const TensorView& x, const NormAxes& axes) {
    unsigned char order[kMaxDims];
    for (int d = 0; d < x.ndim; ++d) order[d] = static_cast<unsigned char>(d);
    return layout_in_order(x, axes, order);
}

std::int64_t elements_of(const TensorView& view) {
    std::int64_t elements = 1;
    for (int d = 0; d < view.ndim; ++d) elements *= view.shape[d];
    return elements;
}

}  // namespace bnfast
