// y = act(gamma * (x - mean) * invstd + beta + residual), zero where `where` is false: one read of each input, one
// write of y.
#pragma once

#include "cpu/kernels/span.h"

namespace bnfast {
namespace BNFAST_TARGET {

template <class S, bool kRows, class Act>
void forward_tile(const ForwardTask& task, const Tile& tile, Act act) {
    using T = Compute<S>;
    const bool has_residual = task.residual.data != nullptr;
    const bool has_where = task.where.bits != nullptr;
    const bool has_keep = task.keep.bits != nullptr;
    const Geometry& g = task.geometry;
    const bool is_dense =
        !has_where && whole(tile, g) && dense(task.x, g) && dense(task.residual, g) && dense(task.y, g);
    for_each_in_tile<T, kRows>(
        g, tile, is_dense,
        [&](std::int64_t c) __attribute__((always_inline)) { return load_affine<T, kRows>(task.coefficients, c); },
        [&](const Position& p)
            __attribute__((always_inline)) { return task.streaming ? head_of(at<S>(task.y, p)) : 0; },
        [&](const Position& p, auto lanes, const Affine<T>& affine) __attribute__((always_inline)) {
            Vec<T> z = affine.apply(affine.centre(lanes.load(at<S>(task.x, p))));
            if (has_residual) z = z + lanes.load(at<S>(task.residual, p));
            Vec<T> y = act.forward(z);
            if (has_keep) y = drop<T, kRows>(task.keep, g, p, y);
            if (has_where) y = select(where_mask<T, kRows>(task.where, p), y, Vec<T>(0));
            lanes.store(at<S>(task.y, p), y, task.streaming);
        });
    if (task.streaming) stream_fence();
}

template <class S>
void forward(const ForwardTask& task, const Tile& tile) noexcept {
    with_activation<Compute<S>>(task.activation, task.activation_slope, [&](auto act) {
        if (task.geometry.rows) {
            forward_tile<S, true>(task, tile, act);
        } else {
            forward_tile<S, false>(task, tile, act);
        }
    });
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
