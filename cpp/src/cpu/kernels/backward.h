// Gradients (Ioffe & Szegedy 2015, section 3): with dz the gradient at the affine's output,
//   dbeta = sum dz,  dgamma = sum dz * (x - mean) * invstd,
//   dx = gamma * invstd * (dz - mean(dz) - (x - mean) * projection),  dresidual = dz,
// where the projection is invstd^2 * mean(dz * (x - mean)). Activations are recomputed from x (and residual), or x -
// mean from y where forward wrote y over x (Rota Bulo, Porzi & Kontschieder 2018).
#pragma once

#include "cpu/kernels/keep.h"

namespace bnfast {
namespace BNFAST_TARGET {

// One vector on both sides of the affine: (x - mean) * prescale, and dz.
template <class T>
struct AtAffine {
    Vec<T> centred, dz;
};
// A run of the inputs, and where it is in the dropout mask.
template <class S>
struct GradientRun {
    const S *x, *dy, *residual;
    std::int64_t mask;
};
template <class S>
BNFAST_INLINE GradientRun<S> open_inputs(const BackwardTask& task, const MaskIndex& index, const Position& p) {
    return {at<S>(task.x, p), at<S>(task.dy, p), at_if_any<S>(task.residual, p), index.of(p)};
}
// kPlain: with neither dropout nor residual.
template <class S, bool kPlain = false, class Act, class Lanes>
BNFAST_INLINE AtAffine<Compute<S>> at_affine(Act act, const Dropper<Compute<S>>& dropper, const GradientRun<S>& run,
                                             std::int64_t i, Lanes lanes, const Affine<Compute<S>>& affine) {
    using T = Compute<S>;
    const Vec<T> x = lanes.load(run.x + i);
    Vec<T> dz = lanes.load(run.dy + i);
    if constexpr (IsFromOutput<Act>::kValue) {
        return {affine.undo(act.act.inverse(x)), dz * act.act.derivative_from_output(x)};
    } else {
        const Vec<T> centred = affine.centre(x);
        if (!kPlain && dropper.used) dz = dropper.drop(run.mask + i, dz);
        if constexpr (!IsIdentity<Act>::kValue) {
            Vec<T> z = affine.apply(centred);
            if (!kPlain && run.residual != nullptr) z = z + lanes.load(run.residual + i);
            dz = dz * act.derivative(z);
        }
        return {centred, dz};
    }
}

BNFAST_INLINE Vec<double> add_product(Vec<double> sum, Vec<float> a, Vec<double> wide_b) {
    return add_exact_product(sum, widen(a), wide_b);
}
BNFAST_INLINE Vec<double> add_product(Vec<double> sum, Vec<double> a, Vec<double> b) { return sum + a * b; }

// --- sums -------------------------------------------------------------------------------------------------------

// Adds the vectors of one plane, or of a piece of it, to the sums of its channel. fetch_ahead(i) comes before each.
// kPlain: there is no residual, where or dropout to ask for, which would be half of the work on a short plane.
template <class S, bool kPlain, class Act, class Fetch>
BNFAST_INLINE void add_plane(const BackwardTask& task, Act act, const Dropper<Compute<S>>& dropper, const Position& p,
                             std::int64_t n, Fetch fetch_ahead, Vec<double>& sum_dz, Vec<double>& sum_dz_xmu) {
    using T = Compute<S>;
    const bool has_where = !kPlain && task.where.bits != nullptr;
    const Affine<T> affine = load_affine<T, false>(task.coefficients, p.channel);
    const GradientRun<S> run = kPlain ? GradientRun<S>{at<S>(task.x, p), at<S>(task.dy, p), nullptr, 0}
                                      : open_inputs<S>(task, dropper.index, p);
    const WhereRun where = kPlain ? WhereRun{} : open_where<false>(task.where, p);
    Vec<double> sum = sum_dz, product = sum_dz_xmu;
    for_each_in_run(
        run, n, !kPlain && dropper.used ? kPortion : kEverything,
        [](const GradientRun<S>&) __attribute__((always_inline)) { return std::int64_t{0}; },
        [&](const GradientRun<S>&, std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
            if (!kPlain) dropper.prepare(run.mask + i, count);
        },
        [&](const GradientRun<S>&, std::int64_t i, auto lanes) __attribute__((always_inline)) {
            fetch_ahead(i);
            auto [centred, dz] = at_affine<S, kPlain>(act, dropper, run, i, lanes, affine);
            if (has_where) {
                const Mask<T> mask = where_mask<T, false>(where, i);
                dz = select(mask, dz, Vec<T>(0));
                centred = select(mask, centred, Vec<T>(0));
            }
            const Vec<double> wide = widen(dz);
            sum = sum + wide;
            product = add_product(product, centred, wide);
        });
    sum_dz = sum;
    sum_dz_xmu = product;
}

// Sums of `count` neighbouring channels, plane after plane as they lie in memory.
template <class S, bool kPlain, class Act>
void sum_gradients_planes(const BackwardTask& task, Act act, const Dropper<Compute<S>>& dropper, const BlockSpan& span,
                          const Position& after, std::int64_t channel, std::int64_t count, double* sum_dz,
                          double* sum_dz_xmu) {
    Vec<double> sums[kPlanesTogether], products[kPlanesTogether];
    for (std::int64_t c = 0; c < count; ++c) sums[c] = products[c] = Vec<double>(0.0);
    const std::int64_t n = span.inner_end - span.inner_begin;
    for (std::int64_t o = span.outer_begin; o < span.outer_end; ++o) {
        const S* first_x = at<S>(task.x, o, channel) + span.inner_begin;
        const S* first_dy = at<S>(task.dy, o, channel) + span.inner_begin;
        const S* next_x = o + 1 < span.outer_end ? first_x + task.x.outer_stride : at<S>(task.x, after);
        const S* next_dy = o + 1 < span.outer_end ? first_dy + task.dy.outer_stride : at<S>(task.dy, after);
        for (std::int64_t c = 0; c < count; ++c) {
            const Position p{o, channel + c, span.inner_begin};
            const auto fetch_ahead = [&](std::int64_t i) __attribute__((always_inline)) {
                prefetch(first_x, next_x, c * n + i, count * n);
                prefetch(first_dy, next_dy, c * n + i, count * n);
            };
            add_plane<S, kPlain>(task, act, dropper, p, n, fetch_ahead, sums[c], products[c]);
        }
    }
    for (std::int64_t c = 0; c < count; ++c) {
        sum_dz[c] = sum_lanes(sums[c]);
        sum_dz_xmu[c] = sum_lanes(products[c]);
    }
}

template <class S, int kCount, class Act>
void add_gradient_rows(const BackwardTask& task, Act act, const Dropper<Compute<S>>& dropper, std::int64_t o,
                       const BlockRange& range, double* sum_dz, double* sum_dz_xmu) {
    using T = Compute<S>;
    const std::int64_t width = range.channel_end - range.channel_begin;
    const std::int64_t stride_x = task.x.outer_stride, stride_dy = task.dy.outer_stride;
    const Coefficients coefficients = task.coefficients;
    GradientRun<S> runs[kCount];
    BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
        runs[r] = open_inputs<S>(task, dropper.index, Position{o + r, range.channel_begin, 0});
    }
    for_each_vector(width, 0, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
        const Affine<T> affine = load_affine<T, true>(coefficients, range.channel_begin + i);
        Vec<double> sum = lanes.load(sum_dz + i), product = lanes.load(sum_dz_xmu + i);
        const std::int64_t ahead_x = rows_ahead<S, kCount>(stride_x, width, i);
        const std::int64_t ahead_dy = rows_ahead<S, kCount>(stride_dy, width, i);
        BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
            fetch(runs[r].x + i + ahead_x);
            fetch(runs[r].dy + i + ahead_dy);
            const auto [centred, dz] = at_affine<S>(act, dropper, runs[r], i, lanes, affine);
            const Vec<double> wide = widen(dz);
            sum = sum + wide;
            product = add_product(product, centred, wide);
        }
        lanes.store(sum_dz + i, sum, false);
        lanes.store(sum_dz_xmu + i, product, false);
    });
}

template <class S, class Act>
void sum_gradients_rows(const BackwardTask& task, Act act, const Dropper<Compute<S>>& dropper, const BlockSpan& span,
                        const BlockRange& range, double* sum_dz, double* sum_dz_xmu) {
    const std::int64_t width = range.channel_end - range.channel_begin;
    for (std::int64_t c = 0; c < width; ++c) sum_dz[c] = sum_dz_xmu[c] = 0.0;
    std::int64_t o = span.outer_begin;
    constexpr int kCount = IsIdentity<Act>::kValue ? kRowsAtOnce : 4;
    const bool bits_fit = !dropper.used || kCount * task.keep.all_channels <= kMostPrepared;
    if (task.where.bits == nullptr && bits_fit) {
        for (; o + kCount <= span.outer_end; o += kCount) {
            const std::int64_t last = (kCount - 1) * task.keep.all_channels + width;
            dropper.prepare(dropper.index.of(Position{o, range.channel_begin, 0}), last);
            add_gradient_rows<S, kCount>(task, act, dropper, o, range, sum_dz, sum_dz_xmu);
        }
    }
    for (; o < span.outer_end; ++o) {
        if (task.where.bits != nullptr && !bit_at(task.where.bits, o)) continue;
        const std::int64_t most = dropper.used ? kMostPrepared : width;
        for (std::int64_t c = 0, n; c < width; c += n) {
            n = width - c < most ? width - c : most;
            dropper.prepare(dropper.index.of(Position{o, range.channel_begin + c, 0}), n);
            const BlockRange piece{range.channel_begin + c, range.channel_begin + c + n, 0, 0, 0};
            add_gradient_rows<S, 1>(task, act, dropper, o, piece, sum_dz + c, sum_dz_xmu + c);
        }
    }
}

// Short planes and narrow rows.
template <class S, class Act>
void sum_gradients_flat(const BackwardTask& task, Act act, const BlockRange& range, const BlockSums& out) {
    using T = Compute<S>;
    const Geometry& g = task.geometry;
    const Fold fold(g);
    FlatCoefficients<T> coefficients;
    double dz[kFlatArray], dz_xmu[kFlatArray];
    for (std::int64_t first = range.channel_begin, count; first < range.channel_end; first += count) {
        count = range.channel_end - first < fold.strip() ? range.channel_end - first : fold.strip();
        const Coefficients expanded = coefficients.expand_all(fold, task.coefficients, first, count, false);
        const BackwardTask flat = flat_rows(task, expanded, first, count, sizeof(S));
        KeepWindow window(flat.keep, flat.geometry);
        const Dropper<T> dropper(window, flat.keep, flat.geometry);
        const BlockRange row{0, count * fold.count, 0, 0, 0};
        for (std::int64_t b = range.block_begin; b < range.block_end; ++b) {
            const BlockSpan span = span_of(g, task.blocks, b);
            if (!g.rows) {
                sum_gradients_rows<S>(flat, act, dropper, span, row, dz, dz_xmu);
            } else {
                std::int64_t o = span.outer_end / kRowsInFlat * kRowsInFlat;
                sum_gradients_rows<S>(flat, act, dropper, {span.outer_begin / kRowsInFlat, o / kRowsInFlat, 0, 1}, row,
                                      dz, dz_xmu);
                KeepWindow rest_window(task.keep, g);
                const Dropper<T> rest(rest_window, task.keep, g);
                for (std::int64_t c = 0; o < span.outer_end; ++o, c += g.channels) {
                    rest.prepare(rest.index.of(Position{o, 0, 0}), g.channels);
                    add_gradient_rows<S, 1>(task, act, rest, o, {0, g.channels, 0, 0, 0}, dz + c, dz_xmu + c);
                }
            }
            fold_sums(fold, count, dz);
            fold_sums(fold, count, dz_xmu);
            const std::int64_t k = (b - range.block_begin) * range.pitch + (first - range.channel_begin);
            for (std::int64_t c = 0; c < count; ++c) {
                out.dz[k + c] = dz[c];
                out.dz_xmu[k + c] = dz_xmu[c];
            }
        }
    }
}

// The activations for which sums without anything else are compiled of their own: those that cost next to nothing.
template <class Act>
struct IsLight {
    static constexpr bool kValue = IsIdentity<Act>::kValue;
};
template <class T>
struct IsLight<Relu<T>> {
    static constexpr bool kValue = true;
};

template <class S>
void backward_sums(const BackwardTask& task, const BlockRange& range, const BlockSums& out) noexcept {
    with_activation<Compute<S>>(task, [&](auto act) {
        if (task.geometry.flat) return sum_gradients_flat<S>(task, act, range, out);
        KeepWindow window(task.keep, task.geometry);
        const Dropper<Compute<S>> dropper(window, task.keep, task.geometry);
        const bool plain = !dropper.used && task.where.bits == nullptr && task.residual.data == nullptr;
        for (std::int64_t b = range.block_begin; b < range.block_end; ++b) {
            const BlockSpan span = span_of(task.geometry, task.blocks, b);
            const std::int64_t k = (b - range.block_begin) * range.pitch;
            if (task.geometry.rows) {
                sum_gradients_rows<S>(task, act, dropper, span, range, out.dz + k, out.dz_xmu + k);
            } else {
                const std::int64_t together = planes_together(task.geometry);
                for (std::int64_t c = range.channel_begin; c < range.channel_end; c += together) {
                    const std::int64_t count = c + together < range.channel_end ? together : range.channel_end - c;
                    const std::int64_t first = k + c - range.channel_begin;
                    const Position after = after_block(task.geometry, task.blocks, range, b, c + count);
                    if (IsLight<decltype(act)>::kValue && plain) {
                        sum_gradients_planes<S, IsLight<decltype(act)>::kValue>(task, act, dropper, span, after, c,
                                                                                count, out.dz + first,
                                                                                out.dz_xmu + first);
                    } else {
                        sum_gradients_planes<S, false>(task, act, dropper, span, after, c, count, out.dz + first,
                                                       out.dz_xmu + first);
                    }
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

template <class S>
struct BackwardRun {
    GradientRun<S> inputs;
    S *dx, *dresidual;
    WhereRun where;
};

template <class S, bool kRows, class Act>
void backward_tile(const BackwardTask& task, const Tile& shared_tile, Act act) {
    using T = Compute<S>;
    using Run = BackwardRun<S>;
    // Copies that no store can be suspected of changing.
    const Tile tile = shared_tile;
    const Geometry g = task.geometry;
    const Coefficients k = task.coefficients;
    const bool has_dresidual = task.dresidual.data != nullptr;
    const bool has_where = task.where.bits != nullptr;
    const bool streaming = task.streaming, fetches = task.fetch_channels != cpu::kFetchNothing;
    const std::int64_t ahead_x = fetch_distance<S>(task.x, task.fetch_channels);
    const std::int64_t ahead_dy = fetch_distance<S>(task.dy, task.fetch_channels);
    // dresidual is streamed where its vectors are aligned as those of dx are, in every run.
    const bool alike =
        task.dresidual.outer_stride == task.dx.outer_stride &&
        task.dresidual.channel_stride == task.dx.channel_stride &&
        head_of(static_cast<const S*>(task.dresidual.data)) == head_of(static_cast<const S*>(task.dx.data));
    const bool streams_both = streaming && has_dresidual && alike;
    KeepWindow window(task.keep, g);
    const Dropper<T> dropper(window, task.keep, g);
    const bool is_dense = !has_where && whole(tile, g) && dense(task.x, g) && dense(task.residual, g) &&
                          dense(task.dy, g) && dense(task.dx, g) && dense(task.dresidual, g);
    for_each_in_tile<T, kRows>(
        g, tile, is_dense, dropper.used ? kPortion : kEverything,
        [&](const Position& p) __attribute__((always_inline)) {
            return Run{open_inputs<S>(task, dropper.index, p), at<S>(task.dx, p), at_if_any<S>(task.dresidual, p),
                       open_where<kRows>(task.where, p)};
        },
        [&](const Run& run) __attribute__((always_inline)) { return streaming ? head_of(run.dx) : 0; },
        [&](const Position& p, std::int64_t n) __attribute__((always_inline)) {
            if (streaming) fetch_ends(at<S>(task.dx, p), n);
            if (streams_both) fetch_ends(at<S>(task.dresidual, p), n);
        },
        [&](const Run& run, std::int64_t i, std::int64_t n)
            __attribute__((always_inline)) { dropper.prepare(run.inputs.mask + i, n); },
        [&](std::int64_t c) __attribute__((always_inline)) {
            const auto get = [&](const void* values) __attribute__((always_inline)) {
                return kRows ? row_coefficient<T>(values, c) : plane_coefficient<T>(values, c);
            };
            return BackwardCoefficients<T>{load_affine<T, kRows>(k, c), get(k.mean_dz), get(k.projection),
                                           get(k.dx_scale)};
        },
        [&](const Run& run, std::int64_t i, auto lanes, const BackwardCoefficients<T>& coefficients)
            __attribute__((always_inline)) {
                if (fetches) {
                    fetch(run.inputs.x + i + ahead_x);
                    fetch(run.inputs.dy + i + ahead_dy);
                }
                auto [centred, dz] = at_affine<S>(act, dropper, run.inputs, i, lanes, coefficients.affine);
                Vec<T> dx = ((dz - coefficients.mean_dz) - centred * coefficients.projection) * coefficients.dx_scale;
                if (has_where) {
                    const Mask<T> mask = where_mask<T, kRows>(run.where, i);
                    dz = select(mask, dz, Vec<T>(0));
                    dx = select(mask, dx, Vec<T>(0));
                }
                if (has_dresidual) lanes.store(run.dresidual + i, dz, streams_both);
                lanes.store(run.dx + i, dx, streaming);
            });
    if (streaming) stream_fence();
}

template <class S>
void backward(const BackwardTask& task, const Tile& tile) noexcept {
    with_activation<Compute<S>>(task, [&](auto act) {
        if (task.geometry.rows) {
            backward_tile<S, true>(task, tile, act);
        } else if (task.geometry.flat && task.geometry.inner < kLanes) {
            apply_flat<S, true>(task, tile, [&](const BackwardTask& flat, const Tile& rows) {
                backward_tile<S, true>(flat, rows, act);
            });
        } else {
            backward_tile<S, false>(task, tile, act);
        }
    });
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
