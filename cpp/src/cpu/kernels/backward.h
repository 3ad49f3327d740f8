// Gradients (Ioffe & Szegedy 2015, section 3): with dz the gradient at the affine's output,
//   dbeta = sum dz,  dgamma = sum dz * (x - mean) * invstd,
//   dx = gamma * invstd * (dz - mean(dz) - (x - mean) * projection),  dresidual = dz,
// where the projection is invstd^2 * mean(dz * (x - mean)). Activations are recomputed from x (and residual).
#pragma once

#include "cpu/kernels/span.h"

namespace bnfast {
namespace BNFAST_TARGET {

// dz at one vector of the tile.
template <class S, bool kRows, class Act, class Lanes>
BNFAST_INLINE Vec<Compute<S>> gradient_at_affine(const BackwardTask& task, Act act, const Position& p, Lanes lanes,
                                                 Vec<Compute<S>> centred, const Affine<Compute<S>>& affine) {
    using T = Compute<S>;
    Vec<T> dz = lanes.load(at<S>(task.dy, p));
    if (task.keep.bits != nullptr) dz = drop<T, kRows>(task.keep, task.geometry, p, dz);
    if constexpr (!IsIdentity<Act>::kValue) {
        Vec<T> z = affine.apply(centred);
        if (task.residual.data != nullptr) z = z + lanes.load(at<S>(task.residual, p));
        dz = dz * act.derivative(z);
    }
    return dz;
}

BNFAST_INLINE Vec<double> add_product(Vec<double> sum, Vec<float> a, Vec<double> wide_b) {
    return add_exact_product(sum, widen(a), wide_b);
}
BNFAST_INLINE Vec<double> add_product(Vec<double> sum, Vec<double> a, Vec<double> b) { return sum + a * b; }

// --- sums -------------------------------------------------------------------------------------------------------

// Sums of `count` neighbouring channels, plane after plane as they lie in memory.
template <class S, class Act>
void sum_gradients_planes(const BackwardTask& task, Act act, const BlockSpan& span, std::int64_t channel,
                          std::int64_t count, double* sum_dz, double* sum_dz_xmu) {
    using T = Compute<S>;
    Vec<double> sums[kPlanesTogether], products[kPlanesTogether];
    for (std::int64_t c = 0; c < count; ++c) sums[c] = products[c] = Vec<double>(0.0);
    const std::int64_t n = span.inner_end - span.inner_begin;
    for (std::int64_t o = span.outer_begin; o < span.outer_end; ++o) {
        for (std::int64_t c = 0; c < count; ++c) {
            const Affine<T> affine = load_affine<T, false>(task.coefficients, channel + c);
            const std::int64_t next_o = c + 1 < count || o + 1 == span.outer_end ? o : o + 1;
            const std::int64_t next_c = channel + (c + 1 < count ? c + 1 : 0);
            const S* x = at<S>(task.x, o, channel + c) + span.inner_begin;
            const S* next_x = at<S>(task.x, next_o, next_c) + span.inner_begin;
            const S* dy = at<S>(task.dy, o, channel + c) + span.inner_begin;
            const S* next_dy = at<S>(task.dy, next_o, next_c) + span.inner_begin;
            Vec<double> sum = sums[c], product = products[c];
            for_each_vector(n, 0, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
                const Position p{o, channel + c, span.inner_begin + i};
                prefetch(x, next_x, i, n);
                prefetch(dy, next_dy, i, n);
                Vec<T> centred = affine.centre(lanes.load(x + i));
                Vec<T> dz = gradient_at_affine<S, false>(task, act, p, lanes, centred, affine);
                if (task.where.bits != nullptr) {
                    const Mask<T> mask = where_mask<T, false>(task.where, p);
                    dz = select(mask, dz, Vec<T>(0));
                    centred = select(mask, centred, Vec<T>(0));
                }
                const Vec<double> wide = widen(dz);
                sum = sum + wide;
                product = add_product(product, centred, wide);
            });
            sums[c] = sum;
            products[c] = product;
        }
    }
    for (std::int64_t c = 0; c < count; ++c) {
        sum_dz[c] = sum_lanes(sums[c]);
        sum_dz_xmu[c] = sum_lanes(products[c]);
    }
}

template <class S, int kCount, class Act>
void add_gradient_rows(const BackwardTask& task, Act act, std::int64_t o, const BlockRange& range, double* sum_dz,
                       double* sum_dz_xmu) {
    using T = Compute<S>;
    const std::int64_t width = range.channel_end - range.channel_begin;
    const std::int64_t ahead_x = rows_ahead<S>(task.x.outer_stride, width);
    const std::int64_t ahead_dy = rows_ahead<S>(task.dy.outer_stride, width);
    for_each_vector(width, 0, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
        const std::int64_t c = range.channel_begin + i;
        const Affine<T> affine = load_affine<T, true>(task.coefficients, c);
        Vec<double> sum = load(sum_dz + i), product = load(sum_dz_xmu + i);
        BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
            const Position p{o + r, c, 0};
            __builtin_prefetch(at<S>(task.x, p) + ahead_x);
            __builtin_prefetch(at<S>(task.dy, p) + ahead_dy);
            const Vec<T> centred = affine.centre(lanes.load(at<S>(task.x, p)));
            const Vec<T> dz = gradient_at_affine<S, true>(task, act, p, lanes, centred, affine);
            const Vec<double> wide = widen(dz);
            sum = sum + wide;
            product = add_product(product, centred, wide);
        }
        store(sum_dz + i, sum);
        store(sum_dz_xmu + i, product);
    });
}

template <class S, class Act>
void sum_gradients_rows(const BackwardTask& task, Act act, const BlockSpan& span, const BlockRange& range,
                        double* sum_dz, double* sum_dz_xmu) {
    const std::int64_t width = range.channel_end - range.channel_begin;
    for (std::int64_t c = 0; c < width; ++c) sum_dz[c] = sum_dz_xmu[c] = 0.0;
    std::int64_t o = span.outer_begin;
    if (task.where.bits == nullptr) {
        constexpr int kCount = IsIdentity<Act>::kValue ? kRowsAtOnce : 4;
        for (; o + kCount <= span.outer_end; o += kCount) {
            add_gradient_rows<S, kCount>(task, act, o, range, sum_dz, sum_dz_xmu);
        }
    }
    for (; o < span.outer_end; ++o) {
        if (task.where.bits == nullptr || bit_at(task.where.bits, o)) {
            add_gradient_rows<S, 1>(task, act, o, range, sum_dz, sum_dz_xmu);
        }
    }
}

template <class S>
void backward_sums(const BackwardTask& task, const BlockRange& range, const BlockSums& out) noexcept {
    with_activation<Compute<S>>(task.activation, task.activation_slope, [&](auto act) {
        for (std::int64_t b = range.block_begin; b < range.block_end; ++b) {
            const BlockSpan span = span_of(task.geometry, task.blocks, b);
            const std::int64_t k = (b - range.block_begin) * range.pitch;
            if (task.geometry.rows) {
                sum_gradients_rows<S>(task, act, span, range, out.dz + k, out.dz_xmu + k);
            } else {
                const std::int64_t together = planes_together(task.geometry);
                for (std::int64_t c = range.channel_begin; c < range.channel_end; c += together) {
                    const std::int64_t count = c + together < range.channel_end ? together : range.channel_end - c;
                    const std::int64_t first = k + c - range.channel_begin;
                    sum_gradients_planes<S>(task, act, span, c, count, out.dz + first, out.dz_xmu + first);
                }
            }
        }
    });
}

// --- dx, dresidual ----------------------------------------------------------------------------------------------

template <class T>
struct BackwardCoefficients {
    Affine<T> affine;
    Vec<T> mean_dz, projection, dx_scale;
};

template <class T>
BNFAST_INLINE BackwardCoefficients<T> blend(Mask<T> mask, const BackwardCoefficients<T>& a,
                                            const BackwardCoefficients<T>& b) {
    return {blend(mask, a.affine, b.affine), select(mask, a.mean_dz, b.mean_dz),
            select(mask, a.projection, b.projection), select(mask, a.dx_scale, b.dx_scale)};
}

template <class S, bool kRows, class Act>
void backward_tile(const BackwardTask& task, const Tile& tile, Act act) {
    using T = Compute<S>;
    const bool has_where = task.where.bits != nullptr;
    const Coefficients& k = task.coefficients;
    const Geometry& g = task.geometry;
    const bool is_dense = !has_where && whole(tile, g) && dense(task.x, g) && dense(task.residual, g) &&
                          dense(task.dy, g) && dense(task.dx, g) && dense(task.dresidual, g);
    for_each_in_tile<T, kRows>(
        g, tile, is_dense,
        [&](std::int64_t c) __attribute__((always_inline)) {
            const auto get = [&](const void* values) __attribute__((always_inline)) {
                return kRows ? row_coefficient<T>(values, c) : plane_coefficient<T>(values, c);
            };
            return BackwardCoefficients<T>{load_affine<T, kRows>(k, c), get(k.mean_dz), get(k.projection),
                                           get(k.dx_scale)};
        },
        [&](const Position& p)
            __attribute__((always_inline)) { return task.streaming ? head_of(at<S>(task.dx, p)) : 0; },
        [&](const Position& p, auto lanes, const BackwardCoefficients<T>& coefficients) __attribute__((always_inline)) {
            const Vec<T> centred = coefficients.affine.centre(lanes.load(at<S>(task.x, p)));
            Vec<T> dz = gradient_at_affine<S, kRows>(task, act, p, lanes, centred, coefficients.affine);
            Vec<T> dx = ((dz - coefficients.mean_dz) - centred * coefficients.projection) * coefficients.dx_scale;
            if (has_where) {
                const Mask<T> mask = where_mask<T, kRows>(task.where, p);
                dz = select(mask, dz, Vec<T>(0));
                dx = select(mask, dx, Vec<T>(0));
            }
            if (task.dresidual.data != nullptr) lanes.store(at<S>(task.dresidual, p), dz, false);
            lanes.store(at<S>(task.dx, p), dx, task.streaming);
        });
    if (task.streaming) stream_fence();
}

template <class S>
void backward(const BackwardTask& task, const Tile& tile) noexcept {
    with_activation<Compute<S>>(task.activation, task.activation_slope, [&](auto act) {
        if (task.geometry.rows) {
            backward_tile<S, true>(task, tile, act);
        } else {
            backward_tile<S, false>(task, tile, act);
        }
    });
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
