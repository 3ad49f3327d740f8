// Which entry of a `where` of smaller shape belongs to which element of x.
#include "problem/broadcast.h"

#include <algorithm>

namespace bnfast {
namespace {

bool broadcast_strides(const TensorView& where, const TensorView& x, int axis, bool lacks_axis, std::int64_t* strides) {
    std::fill_n(strides, x.ndim, std::int64_t{0});
    int w = where.ndim - 1;
    for (int d = x.ndim - 1; d >= 0 && w >= 0; --d) {
        if (lacks_axis && d == axis) continue;
        const std::int64_t wanted = d == axis ? 1 : x.shape[d];
        if (where.shape[w] != wanted && where.shape[w] != 1) return false;
        strides[d] = where.shape[w] == 1 ? 0 : where.strides[w];
        --w;
    }
    return w < 0;
}

}  // namespace

bool broadcast_strides(const TensorView& where, const TensorView& x, int axis, std::int64_t* strides) {
    const bool full_rank = where.ndim == x.ndim;
    return broadcast_strides(where, x, axis, !full_rank, strides) ||
           broadcast_strides(where, x, axis, full_rank, strides);
}

WhereView::WhereView(const TensorView& where, const TensorView& x, int axis) : view_(where) {
    std::copy_n(x.shape, x.ndim, shape_);
    shape_[axis] = 1;
    broadcast_strides(where, x, axis, strides_);
    view_.ndim = x.ndim;
    view_.shape = shape_;
    view_.strides = strides_;
}

}  // namespace bnfast
