// Shape, strides and channel axis become (outer, channels, inner).
#include "api/geometry.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "bnfast/layout.h"

namespace bnfast::api {
namespace {

std::int64_t product(const TensorView& x, const Dims& dims) {
    std::int64_t result = 1;
    for (const int d : dims) result *= x.shape[d];
    return result;
}

// The one stride in bytes with which the dimensions can be walked as a single one; `fits` is false where there is none.
struct MergedStride {
    std::int64_t stride = 0;
    bool fits = true;
};
MergedStride merge_dims(const TensorView& v, const Dims& dims) {
    MergedStride merged;
    bool first = true;
    std::int64_t expected = 0;  // stride of the next slower dimension
    for (int k = dims.size() - 1; k >= 0; --k) {
        const int d = dims[k];
        if (v.shape[d] == 1) continue;
        if (first) {
            merged.stride = v.strides[d];
            first = false;
        } else if (v.strides[d] != expected) {
            merged.fits = false;
        }
        expected = v.strides[d] * v.shape[d];
    }
    return merged;
}

// Copies elements between a strided view and dense memory, walking `dims` with the last one fastest.
template <class Element>
void copy_dense(const TensorView& view, const Dims& dims, char* dense, bool to_dense) {
    std::int64_t index[kMaxDims] = {};
    char* p = static_cast<char*>(view.data);
    const int last = dims.empty() ? -1 : dims[dims.size() - 1];
    const std::int64_t run = last < 0 ? 1 : view.shape[last];
    const std::int64_t stride = last < 0 ? 0 : view.strides[last];
    while (true) {
        char* q = p;
        for (std::int64_t i = 0; i < run; ++i, q += stride, dense += sizeof(Element)) {
            std::memcpy(to_dense ? dense : q, to_dense ? q : dense, sizeof(Element));
        }
        int k = dims.size() - 2;
        for (; k >= 0; --k) {
            const int d = dims[k];
            p += view.strides[d];
            if (++index[k] < view.shape[d]) break;
            p -= view.strides[d] * view.shape[d];
            index[k] = 0;
        }
        if (k < 0) return;
    }
}

void copy_dense(const TensorView& view, const LayoutOrder& order, char* dense, bool to_dense) {
    for (int d = 0; d < view.ndim; ++d) {
        if (view.shape[d] == 0) return;
    }
    Dims dims = order.outer_dims;
    dims.push_back(order.channel_axis);
    dims.append(order.inner_dims);
    switch (item_size(view.dtype)) {
        case 8: return copy_dense<std::uint64_t>(view, dims, dense, to_dense);
        case 4: return copy_dense<std::uint32_t>(view, dims, dense, to_dense);
        default: return copy_dense<std::uint16_t>(view, dims, dense, to_dense);
    }
}

}  // namespace

}  // namespace bnfast::api

namespace bnfast {

void memory_order(const Strided& view, unsigned char* dims) {
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

}  // namespace bnfast

namespace bnfast::api {

LayoutOrder layout_order(const TensorView& x, int axis) {
    LayoutOrder order;
    order.channel_axis = axis;
    unsigned char dims[kMaxDims];
    memory_order(x, dims);
    const bool one_channel = x.shape[axis] == 1;
    bool inside = one_channel;  // it has no place among the others: all of it is one plane
    for (int k = 0; k < x.ndim; ++k) {
        const int d = dims[k];
        if (d == axis) {
            inside = true;
        } else if (x.shape[d] != 1) {
            (inside ? order.inner_dims : order.outer_dims).push_back(d);
        }
    }
    order.geometry.outer = product(x, order.outer_dims);
    order.geometry.channels = x.shape[axis];
    order.geometry.inner = product(x, order.inner_dims);
    order.geometry.rows = order.inner_dims.empty() && !one_channel;
    return order;
}

bool goes_flat(const Geometry& geometry, Sums sums) {
    // Below these, sums cost less along several rows or planes at once (measured): the channels of rows, which
    // otherwise do not fill a vector, and the elements of a plane, whose own sums take as long as two vectors, or more
    // given planes enough to add together.
    constexpr std::int64_t kNarrow = 16, kShort = 40, kShortOfMany = 50, kMany = 8;
    if (geometry.rows) return geometry.channels < kNarrow;
    const bool of_many = sums != Sums::kNone && geometry.outer >= kMany;
    return geometry.inner > 0 && geometry.inner < (of_many ? kShortOfMany : kShort);
}

LayoutOrder index_order(const TensorView& x, int axis) {
    TensorView dense = x;
    std::int64_t stride = 1;
    for (int d = x.ndim - 1; d >= 0; --d) {
        dense.strides[d] = stride;
        stride *= x.shape[d] > 0 ? x.shape[d] : 1;
    }
    return layout_order(dense, axis);
}

bool lies_in_index_order(const TensorView& x, int axis) {
    const LayoutOrder layout = layout_order(x, axis), index = index_order(x, axis);
    return layout.outer_dims == index.outer_dims && layout.inner_dims == index.inner_dims;
}

bool runs_touch(const TensorView& view, const LayoutOrder& order) {
    const Geometry& g = order.geometry;
    const std::int64_t item = item_size(view.dtype);
    if (g.rows) return g.outer <= 1 || merge_dims(view, order.outer_dims).stride == g.channels * item;
    return g.channels <= 1 || view.strides[order.channel_axis] == g.inner * item;
}

void OrderedTensor::bind(const TensorView& view, const LayoutOrder& order, Use use) {
    view_ = &view;
    order_ = &order;
    use_ = use;
    if (view.data == nullptr) return;
    const Geometry& g = order.geometry;
    const std::int64_t item = item_size(view.dtype);
    const MergedStride outer = merge_dims(view, order.outer_dims), inner = merge_dims(view, order.inner_dims);
    const std::int64_t channel = view.strides[order.channel_axis];
    const bool contiguous =
        g.rows ? channel == item || g.channels == 1 : g.inner == 1 || (inner.fits && inner.stride == item);
    const bool aligned = reinterpret_cast<std::uintptr_t>(view.data) % static_cast<std::uintptr_t>(item) == 0;
    const bool strides_fit = outer.fits && contiguous && aligned && outer.stride % item == 0 && channel % item == 0;
    if (strides_fit && (!g.flat || runs_touch(view, order))) {
        operand_ = {view.data, outer.stride / item, channel / item};
        return;
    }
    const std::int64_t elements = g.outer * g.channels * g.inner;
    packed_.reset(new char[static_cast<std::size_t>(elements * item)]);
    operand_ = {packed_.get(), g.channels * g.inner, g.inner};
    if (use == Use::kRead) copy_dense(view, order, packed_.get(), true);
}

void OrderedTensor::finish() {
    if (use_ == Use::kWrite && packed_ != nullptr) copy_dense(*view_, *order_, packed_.get(), false);
}

namespace {

// The strides of `where` along x's dimensions, zero where it is broadcast. `skip_axis`: it lacks the channel axis.
bool broadcast_strides(const WhereView& where, const TensorView& x, int axis, bool skip_axis, std::int64_t* strides) {
    std::fill_n(strides, x.ndim, std::int64_t{0});
    int w = where.ndim - 1;
    for (int d = x.ndim - 1; d >= 0 && w >= 0; --d) {
        if (skip_axis && d == axis) continue;
        const std::int64_t wanted = d == axis ? 1 : x.shape[d];
        if (where.shape[w] != wanted && where.shape[w] != 1) return false;
        strides[d] = where.shape[w] == 1 ? 0 : where.strides[w];
        --w;
    }
    return w < 0;
}

bool broadcast_strides(const WhereView& where, const TensorView& x, int axis, std::int64_t* strides) {
    const bool full_rank = where.ndim == x.ndim;
    return broadcast_strides(where, x, axis, !full_rank, strides) ||
           broadcast_strides(where, x, axis, full_rank, strides);
}

}  // namespace

bool where_fits(const WhereView& where, const TensorView& x, int axis) {
    std::int64_t strides[kMaxDims];
    return broadcast_strides(where, x, axis, strides);
}

OrderedWhere order_where(const WhereView& where, const TensorView& x, const LayoutOrder& order) {
    OrderedWhere result;
    if (where.data == nullptr) return result;
    // The truth values as a view of bytes with x's shape, one channel, in memory order.
    TensorView view;
    view.data = const_cast<void*>(where.data);
    view.ndim = x.ndim;
    std::copy_n(x.shape, x.ndim, view.shape);
    view.shape[order.channel_axis] = 1;
    broadcast_strides(where, x, order.channel_axis, view.strides);
    const Geometry& g = order.geometry;
    const std::int64_t count = g.outer * g.inner;
    Dims dims = order.outer_dims;
    dims.append(order.inner_dims);
    std::vector<std::uint8_t> dense(static_cast<std::size_t>(count) + 1);
    if (count > 0) copy_dense<std::uint8_t>(view, dims, reinterpret_cast<char*>(dense.data()), true);

    const std::int64_t lines = g.rows ? 1 : g.outer, line = g.rows ? g.outer : g.inner;
    constexpr std::int64_t kSlack = 8;  // kernels read four bytes from any bit on
    result.bits.pitch = (line + 7) / 8 + kSlack;
    result.bytes.assign(static_cast<std::size_t>(lines * result.bits.pitch + kSlack), 0);
    for (std::int64_t l = 0; l < lines; ++l) {
        for (std::int64_t i = 0; i < line; ++i) {
            const bool truth = dense[static_cast<std::size_t>(l * line + i)] != 0;
            result.bytes[static_cast<std::size_t>(l * result.bits.pitch + i / 8)] |=
                static_cast<std::uint8_t>(static_cast<unsigned>(truth) << (i % 8));
        }
    }
    result.bits.bits = result.bytes.data();
    return result;
}

}  // namespace bnfast::api
