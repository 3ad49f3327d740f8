// y = dropout(act(gamma * (x - mean) * invstd + beta + residual)), zero where `where` is false: one read of each input,
// one write of y.
#pragma once

#include "cpu/kernels/mask_window.h"

namespace bnfast {
namespace BNFAST_TARGET {

template <class S>
struct ForwardRun {
    const S *x, *residual;
    S* y;
    std::int64_t mask;  // element of the dropout mask
    WhereRun where;
    AlongRun<Compute<S>> along;
};

template <class S, class Loop>
void forward_tile(const Loop& shared_loop, const ForwardTask& task, const Tile& shared_tile) {
    constexpr bool kRows = Loop::kRows, kAlongInner = Loop::kAlongInner, kPlain = Loop::kPlain;
    using T = Compute<S>;
    using Run = ForwardRun<S>;
    // Copies that no store can be suspected of changing.
    const Loop loop = shared_loop;
    const Tile tile = shared_tile;
    const Geometry g = task.geometry;
    const AffineArrays coefficients = known<kPlain>(task.affine);
    const WhereBits where = known<kPlain>(task.where);
    const bool has_residual = task.residual.is_there(), has_where = where.are_there();
    const bool streaming = task.streaming, fetches = task.fetch_channels != cpu::kFetchNothing;
    const std::int64_t ahead_x = fetch_distance<S>(task.x, task.fetch_channels);
    const std::int64_t ahead_residual = fetch_distance<S>(task.residual, task.fetch_channels);
    MaskWindow window(task.mask, g);
    const Dropper<T> dropper(window, task.mask, g);
    const bool is_dense =
        !kAlongInner && !has_where && whole(tile, g) && dense(task.x, g) && dense(task.residual, g) && dense(task.y, g);
    const std::int64_t portion = portion_of<Loop>(task.mask);
    for_each_in_tile<S, Loop>(
        g, tile, is_dense, portion,
        [&](const Position& p) __attribute__((always_inline)) {
            Run run{at<S>(task.x, p),    at_if_any<S>(task.residual, p), at<S>(task.y, p),
                    dropper.index.of(p), open_where<kRows>(where, p),    {}};
            if constexpr (kAlongInner) run.along = open_along<T>(task.along, g, p);
            return run;
        },
        [&](const Run& run) __attribute__((always_inline)) { return streaming ? head_of(run.y) : 0; },
        [&](const Position& p, std::int64_t n) __attribute__((always_inline)) {
            if (streaming) fetch_ends(at<S>(task.y, p), n);
        },
        [&](std::int64_t c) __attribute__((always_inline)) { return load_affine<T, kRows>(coefficients, c); },
        [&](const Run& run, std::int64_t begin, std::int64_t n, auto walk) __attribute__((always_inline)) {
            if (Loop::drops(dropper.used)) dropper.prepare(run.mask + begin, n);
            const auto pre_activation = [&](std::int64_t i, auto lanes, const Affine<T>& affine, std::int64_t along)
                                            __attribute__((always_inline)) {
                                                if (fetches) fetch(run.x + i + (kRows ? along : ahead_x));
                                                Vec<T> z = affine.apply(affine.centre(lanes.load(run.x + i)));
                                                if constexpr (kAlongInner) z = run.along.at(i, lanes).apply(z);
                                                if (has_residual) {
                                                    if (fetches)
                                                        fetch(run.residual + i + (kRows ? along : ahead_residual));
                                                    z = z + lanes.load(run.residual + i);
                                                }
                                                return z;
                                            };
            const auto finish = [&](std::int64_t i, auto lanes, Vec<T> y) __attribute__((always_inline)) {
                if (Loop::drops(dropper.used)) y = dropper.drop(run.mask + i, y);
                if (has_where) y = select(where_mask<T, kRows>(run.where, i), y, Vec<T>(0));
                lanes.store(run.y + i, y, streaming);
            };
            if constexpr (kPlain) {
                walk([&](std::int64_t i, auto lanes, const Affine<T>& affine, std::int64_t along)
                         __attribute__((always_inline)) {
                             finish(i, lanes, loop.activation.forward(pre_activation(i, lanes, affine, along)));
                         });
            } else {
                T z[kStaged];
                walk([&](std::int64_t i, auto lanes, const Affine<T>& affine, std::int64_t along) __attribute__((
                         always_inline)) { store(z + (i - begin), pre_activation(i, lanes, affine, along)); });
                loop.forward(z, n);
                walk([&](std::int64_t i, auto lanes, const Affine<T>&, std::int64_t)
                         __attribute__((always_inline)) { finish(i, lanes, load(z + (i - begin))); });
            }
        });
}

template <class S>
void normalise_tile_along(const ForwardTask& task, const Tile& tile);  // along_forward.h

template <class S>
void write_tile(const ForwardTask& task, const Tile& tile) {
    if (task.along.used && is_plain_identity(task) && !task.affine.prescaled)
        return normalise_tile_along<S>(task, tile);
    apply_tile<S>(task, tile, [](const auto& loop, const ForwardTask& part, const Tile& part_tile) {
        forward_tile<S>(loop, part, part_tile);
    });
}

template <class S>
void forward(const ForwardTask& task, const Tile& tile) noexcept {
    write_tile<S>(task, tile);
    if (task.streaming) stream_fence();
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
