// Gradients (Ioffe & Szegedy 2015, section 3): with dz the gradient at the affine's output,
//   dx = gamma * invstd * (dz - mean(dz) - (x - mean) * projection),  dresidual = dz,
// where the projection is invstd^2 * mean(dz * (x - mean)). Where one statistic serves several gammas, dz * gamma takes
// the place of dz, and 1 that of gamma (Ba, Kiros & Hinton 2016; Wu & He 2018). dh, the gradient that reaches x by
// another way, is added to dx.
#pragma once

#include "cpu/kernels/gradient_sums.h"

namespace bnfast {
namespace BNFAST_TARGET {

template <class T>
struct BackwardCoefficients {
    Affine<T> affine;
    Vec<T> mean_dz, projection, dx_scale, weight;
};

template <class T>
BNFAST_INLINE BackwardCoefficients<T> blend(Mask<T> mask, const BackwardCoefficients<T>& a,
                                            const BackwardCoefficients<T>& b) {
    return {blend(mask, a.affine, b.affine), select(mask, a.mean_dz, b.mean_dz),
            select(mask, a.projection, b.projection), select(mask, a.dx_scale, b.dx_scale),
            select(mask, a.weight, b.weight)};
}

template <class S, bool kAlongInner>
struct BackwardRun {
    GradientRun<S, kAlongInner> inputs;
    const S* dh;
    S *dx, *dresidual;
    WhereRun where;
    std::int64_t mask_before;
};

template <class S, class Loop>
void backward_tile(const Loop& shared_loop, const BackwardTask& task, const Tile& shared_tile) {
    constexpr bool kRows = Loop::kRows, kAlongInner = Loop::kAlongInner, kPlain = Loop::kPlain;
    using T = Compute<S>;
    using Run = BackwardRun<S, kAlongInner>;
    // Copies that no store can be suspected of changing.
    const Loop loop = shared_loop;
    const Tile tile = shared_tile;
    const Geometry g = task.geometry;
    const AffineArrays affine = known<kPlain>(task.affine);
    const GradientArrays gradient = task.gradient;
    const WhereBits where = known<kPlain>(task.where);
    const bool has_dresidual = task.dresidual.is_there();
    const bool has_where = where.are_there();
    const bool streaming = task.streaming, fetches = task.fetch_channels != cpu::kFetchNothing;
    const std::int64_t ahead_x = fetch_distance<S>(task.x, task.fetch_channels);
    const std::int64_t ahead_dy = fetch_distance<S>(task.dy, task.fetch_channels);
    const std::int64_t ahead_residual = fetch_distance<S>(task.residual, task.fetch_channels);
    const bool fetches_residual = fetches && task.residual.is_there();
    // dresidual is streamed where its vectors are aligned as those of dx are, in every run.
    const bool alike =
        task.dresidual.outer_stride == task.dx.outer_stride &&
        task.dresidual.channel_stride == task.dx.channel_stride &&
        head_of(static_cast<const S*>(task.dresidual.data)) == head_of(static_cast<const S*>(task.dx.data));
    const bool streams_both = streaming && has_dresidual && alike;
    MaskWindow window(task.mask, g);
    const Dropper<T> dropper(window, task.mask, g);
    MaskWindow window_before(task.before, g);
    const Dropper<T> before(window_before, task.before, g);  // along inner only
    const bool is_dense = !kAlongInner && !has_where && whole(tile, g) && dense(task.x, g) && dense(task.residual, g) &&
                          dense(task.dy, g) && dense(task.dx, g) && dense(task.dresidual, g);
    const std::int64_t portion = portion_of<Loop>(task.mask);
    for_each_in_tile<S, Loop>(
        g, tile, is_dense, portion,
        [&](const Position& p) __attribute__((always_inline)) {
            return Run{open_inputs<S, kAlongInner>(task, dropper.index, p),
                       at_if_any<S>(task.dh, p),
                       at<S>(task.dx, p),
                       at_if_any<S>(task.dresidual, p),
                       open_where<kRows>(where, p),
                       before.index.of(p)};
        },
        [&](const Run& run) __attribute__((always_inline)) { return streaming ? head_of(run.dx) : 0; },
        [&](const Position& p, std::int64_t n) __attribute__((always_inline)) {
            if (streaming) fetch_ends(at<S>(task.dx, p), n);
            if (streams_both) fetch_ends(at<S>(task.dresidual, p), n);
        },
        [&](std::int64_t c) __attribute__((always_inline)) {
            const auto get = [&](const void* values) __attribute__((always_inline)) {
                return kRows ? row_coefficient<T>(values, c) : plane_coefficient<T>(values, c);
            };
            return BackwardCoefficients<T>{load_affine<T, kRows>(affine, c), get(gradient.mean_dz),
                                           get(gradient.projection), get(gradient.dx_scale),
                                           gradient.weighted ? get(gradient.weight) : Vec<T>(1)};
        },
        [&](const Run& run, std::int64_t begin, std::int64_t n, auto walk) __attribute__((always_inline)) {
            if (Loop::drops(dropper.used)) dropper.prepare(run.inputs.mask + begin, n);
            if (kAlongInner && before.used) before.prepare(run.mask_before + begin, n);
            const auto fetch_inputs = [&](std::int64_t i, std::int64_t along) __attribute__((always_inline)) {
                if (!fetches) return;
                fetch(run.inputs.x + i + (kRows ? along : ahead_x));
                fetch(run.inputs.dy + i + (kRows ? along : ahead_dy));
                if (fetches_residual) fetch(run.inputs.residual + i + (kRows ? along : ahead_residual));
            };
            const auto finish = [&](std::int64_t i, auto lanes, const BackwardCoefficients<T>& coefficients,
                                    AtAffine<T> at) __attribute__((always_inline)) {
                const Vec<T> weight = kAlongInner ? run.inputs.along.at(i, lanes).gamma : coefficients.weight;
                Vec<T> dx = gradient_at_input(at.dz * weight, at.centred, coefficients.mean_dz, coefficients.projection,
                                              coefficients.dx_scale);
                if constexpr (kAlongInner) {
                    if (run.dh != nullptr) dx = dx + lanes.load(run.dh + i);
                    if (before.used) {
                        at.dz = dx;
                        dx = before.drop(run.mask_before + i, dx);
                    }
                }
                if (has_where) {
                    const Mask<T> mask = where_mask<T, kRows>(run.where, i);
                    at.dz = select(mask, at.dz, Vec<T>(0));
                    dx = select(mask, dx, Vec<T>(0));
                }
                if (has_dresidual) lanes.store(run.dresidual + i, at.dz, streams_both);
                lanes.store(run.dx + i, dx, streaming);
            };
            if constexpr (kPlain) {
                walk([&](std::int64_t i, auto lanes, const BackwardCoefficients<T>& coefficients, std::int64_t along)
                         __attribute__((always_inline)) {
                             fetch_inputs(i, along);
                             finish(i, lanes, coefficients,
                                    at_affine<S>(loop, dropper, run.inputs, i, lanes, coefficients.affine));
                         });
            } else {
                Stage<T> stage;
                walk([&](std::int64_t i, auto lanes, const BackwardCoefficients<T>& coefficients,
                         std::int64_t along) __attribute__((always_inline)) {
                    fetch_inputs(i, along);
                    put_on_stage<S>(loop, dropper, run.inputs, i, lanes, coefficients.affine, stage, i - begin);
                });
                loop.backward(stage.z, stage.dz, n);
                walk([&](std::int64_t i, auto lanes, const BackwardCoefficients<T>& coefficients, std::int64_t)
                         __attribute__((always_inline)) {
                             finish(i, lanes, coefficients,
                                    from_stage<S>(loop, run.inputs, i, lanes, coefficients.affine, stage, i - begin));
                         });
            }
        });
}

template <class S>
void write_tile_along(const BackwardTask& task, const Tile& tile);  // along_backward.h

template <class S>
void write_tile(const BackwardTask& task, const Tile& tile) {
    const bool writes_dz = task.dresidual.is_there() && !task.before.used;
    if (task.along.used && is_plain_identity(task) && !task.affine.prescaled && !writes_dz) {
        return write_tile_along<S>(task, tile);
    }
    apply_tile<S>(task, tile, [](const auto& loop, const BackwardTask& part, const Tile& part_tile) {
        backward_tile<S>(loop, part, part_tile);
    });
}

template <class S>
void backward(const BackwardTask& task, const Tile& tile) noexcept {
    write_tile<S>(task, tile);
    if (task.streaming) stream_fence();
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
