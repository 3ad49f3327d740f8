// Shape, strides and channel axis become a Geometry: which elements share a statistic, and in what order they lie.
#include "problem/layout.h"

#include <cstdlib>

#include "bnfast/layout.h"

namespace bnfast {
namespace {

// The layout of x whose dimensions stand in the given order, slowest first.
Layout layout_in_order(const TensorView& x, int axis, Scope scope, const unsigned char* order) {
    Layout layout;
    layout.channel_axis = axis;
    layout.scope = scope;
    Geometry& geometry = layout.geometry;
    const bool one_channel = x.shape[axis] == 1;
    bool inside = one_channel;  // it has no place among the others: all of it is one plane
    geometry.outer = geometry.inner = 1;
    for (int k = 0; k < x.ndim; ++k) {
        const int d = order[k];
        if (scope == Scope::kSample && d == 0) {
            layout.samples = x.shape[0];
        } else if (d == axis) {
            inside = true;
        } else if (x.shape[d] != 1) {
            (inside ? layout.inner_dims : layout.outer_dims).push_back(d);
            (inside ? geometry.inner : geometry.outer) *= x.shape[d];
        }
    }
    geometry.channels = x.shape[axis];
    geometry.rows = layout.inner_dims.empty() && !one_channel;
    return layout;
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
    if (scope == Scope::kSample) dims.push_back(0);
    dims.append(outer_dims);
    dims.push_back(channel_axis);
    dims.append(inner_dims);
    return dims;
}

Layout memory_layout(const TensorView& x, int axis, Scope scope) {
    unsigned char order[kMaxDims];
    memory_order(x, order);
    return layout_in_order(x, axis, scope, order);
}

Layout index_layout(const TensorView& x, int axis, Scope scope) {
    unsigned char order[kMaxDims];
    for (int d = 0; d < x.ndim; ++d) order[d] = static_cast<unsigned char>(d);
    return layout_in_order(x, axis, scope, order);
}

std::int64_t elements_of(const TensorView& view) {
    std::int64_t elements = 1;
    for (int d = 0; d < view.ndim; ++d) elements *= view.shape[d];
    return elements;
}

}  // namespace bnfast
