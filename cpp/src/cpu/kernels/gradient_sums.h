// Sums over blocks of dz, the gradient of gradient.h, and of dz * (x - mean) (Ioffe & Szegedy 2015, section 3): they
// give dbeta = sum dz and dgamma = sum dz * (x - mean) * invstd.
//
// For float32 x, sum dz * (x - mean) is sum dz * x - mean * sum dz: the products are exact in float64, x need not be
// centred, and what cancels is below the rounding of a centred float32. Where it might not be (the mean is very far
// from zero, or x is constant and the sum has to be zero) the channel is summed again, centred. 16-bit x is centred,
// and short runs (numerics/sums.h) of it are summed in float32; where that was not enough, the channel is summed again
// in float64. The choice is a channel's own.
#pragma once

#include "cpu/kernels/gradient.h"
#include "numerics/coefficients.h"

namespace bnfast {
namespace BNFAST_TARGET {

// Sums of dz and of its products with x - mean over a short run.
struct ShortGradientSums {
    Vec<float> dz = Vec<float>(0.0F), product = Vec<float>(0.0F);

    BNFAST_INLINE void add(Vec<float> gradient, Vec<float> factor) {
        dz = dz + gradient;
        product = product + factor * gradient;
    }
};
// The same over a block, or products with x.
struct GradientSums {
    Vec<double> dz, product;

    template <class T>
    BNFAST_INLINE void add(Vec<T> gradient, Vec<T> factor) {
        dz = dz + widen(gradient);
        if constexpr (sizeof(T) == 8) {
            product = product + factor * gradient;
        } else {
            product = add_exact_product(product, widen(factor), widen(gradient));
        }
    }
    BNFAST_INLINE void add_run(const ShortGradientSums& even, const ShortGradientSums& odd) {
        dz = dz + widen(even.dz + odd.dz);
        product = product + widen(even.product + odd.product);
    }
};
// Calls add(i, lanes, sums) for the vectors of n elements: with `sums`, or with those of short runs, which go there.
template <bool kShort, class Add>
BNFAST_INLINE void add_run(std::int64_t n, GradientSums& sums, Add add) {
    if constexpr (kShort) {
        for_each_short_run<ShortGradientSums>(n, add,
                                              [&](const auto& even, const auto& odd)
                                                  __attribute__((always_inline)) { sums.add_run(even, odd); });
    } else {
        for_each_vector(n, 0, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) { add(i, lanes, sums); });
    }
}

// Sums that start from y, or were not finite in short runs, are float64; their loops are not plain.
template <class S, class Loop>
BNFAST_INLINE bool goes_in_short_runs(const BackwardTask& task) {
    return sizeof(S) == 2 && (Loop::kPlain || task.sums == Sums::kAboutZero);
}

// Adds one vector of a plain loop.
template <class S, class Loop, class Lanes, class Sums>
BNFAST_INLINE void add_plain(const Loop& loop, const Dropper<Compute<S>>& dropper, const GradientRun<S>& run,
                             std::int64_t i, Lanes lanes, const Affine<Compute<S>>& affine, Sums& sums) {
    const AtAffine<Compute<S>> at = at_affine<S>(loop, dropper, run, i, lanes, affine);
    if constexpr (sizeof(S) != 4) {
        sums.add(at.dz, at.centred);
    } else {
        // Widened straight from memory where that is all that is needed of a vector.
        Vec<double> dz = widen(at.dz);
        if constexpr (Loop::kPassesDy) dz = lanes.load_wide(run.dy + i);
        sums.dz = sums.dz + dz;
        sums.product = add_exact_product(sums.product, lanes.load_wide(run.x + i), dz);
    }
}
// Adds one vector that comes from the stage. has_where: only the lanes of bits `where` take part.
template <class T, class Sums>
BNFAST_INLINE void add_staged(AtAffine<T> at, bool centred, bool has_where, std::uint32_t where, Sums& sums) {
    Vec<T> factor = centred ? at.centred : at.x;
    if (has_where) {
        at.dz = select(lanes_of<T>(where), at.dz, Vec<T>(0));
        factor = select(lanes_of<T>(where), factor, Vec<T>(0));
    }
    sums.add(at.dz, factor);
}

// --- planes -----------------------------------------------------------------------------------------------------

// Sums of `count` neighbouring channels, plane after plane as they lie in memory.
template <class S, bool kShort, class Loop>
void sum_gradients_planes(const Loop& shared_loop, const BackwardTask& task, const Dropper<Compute<S>>& dropper,
                          const BlockSpan& span, std::int64_t channel, std::int64_t count, double* sum_dz,
                          double* sum_product) {
    using T = Compute<S>;
    const Loop loop = shared_loop;
    const WhereBits where_bits = known<Loop::kPlain>(task.where);
    const bool has_where = where_bits.are_there(), has_residual = task.residual.is_there();
    const bool centred = sizeof(S) != 4 || task.sums == Sums::kCentred, drops = Loop::drops(dropper.used);
    const std::int64_t n = span.inner_end - span.inner_begin;
    GradientSums all_sums[kPlanesTogether];
    for (std::int64_t c = 0; c < count; ++c) all_sums[c] = {Vec<double>(0.0), Vec<double>(0.0)};
    for (std::int64_t o = span.outer_begin; o < span.outer_end; ++o) {
        for (std::int64_t c = 0; c < count; ++c) {
            const Position p{o, channel + c, span.inner_begin};
            const GradientRun<S> run = open_inputs<S>(task, dropper.index, p);
            const auto affine = load_affine<T, false>(known<Loop::kPlain>(task.affine), p.channel);
            const WhereRun where = open_where<false>(where_bits, p);
            GradientSums sums = all_sums[c];
            const auto fetch_inputs = [&](std::int64_t i) __attribute__((always_inline)) {
                fetch(run.x + i + kAlong<S>);
                fetch(run.dy + i + kAlong<S>);
                if (has_residual) fetch(run.residual + i + kAlong<S>);
            };
            const std::int64_t most = kShort ? kShortRun * kLanes : portion_of<Loop>(task.mask);
            const std::int64_t portion = Loop::kPlain && !drops ? n : most;
            for (std::int64_t begin = 0; begin < n; begin += portion) {
                const std::int64_t length = n - begin < portion ? n - begin : portion;
                if (drops) dropper.prepare(run.mask + begin, length);
                if constexpr (Loop::kPlain) {
                    add_run<kShort>(length, sums,
                                    [&](std::int64_t i, auto lanes, auto& some) __attribute__((always_inline)) {
                                        fetch_inputs(begin + i);
                                        add_plain<S>(loop, dropper, run, begin + i, lanes, affine, some);
                                    });
                } else {
                    Stage<T> stage;
                    for_each_vector(length, 0, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
                        fetch_inputs(begin + i);
                        put_on_stage<S>(loop, dropper, run, begin + i, lanes, affine, stage, i);
                    });
                    loop.backward(stage.z, stage.dz, length);
                    add_run<kShort>(length, sums,
                                    [&](std::int64_t i, auto lanes, auto& some) __attribute__((always_inline)) {
                                        const auto at = from_stage<S>(loop, run, begin + i, lanes, affine, stage, i);
                                        const std::uint32_t part =
                                            has_where ? bits_from(where.row, where.first + begin + i) : 0;
                                        add_staged(at, centred, has_where, part, some);
                                    });
                }
            }
            all_sums[c] = sums;
        }
    }
    for (std::int64_t c = 0; c < count; ++c) {
        sum_dz[c] = sum_lanes(all_sums[c].dz);
        sum_product[c] = sum_lanes(all_sums[c].product);
    }
}

// --- rows -------------------------------------------------------------------------------------------------------

template <class S, int kCount, bool kShort = false, class Loop>
void add_gradient_rows(const Loop& shared_loop, const BackwardTask& task, const Dropper<Compute<S>>& dropper,
                       std::int64_t o, const BlockRange& range, bool in_slots, double* sum_dz, double* sum_product) {
    using T = Compute<S>;
    const Loop loop = shared_loop;
    const std::int64_t width = range.channel_end - range.channel_begin;
    const std::int64_t stride_x = task.x.outer_stride, stride_dy = task.dy.outer_stride;
    const std::int64_t stride_residual = task.residual.outer_stride;
    const bool has_residual = task.residual.is_there();
    const bool centred = sizeof(S) != 4 || task.sums == Sums::kCentred;
    const AffineArrays coefficients = known<Loop::kPlain>(task.affine);
    GradientRun<S> runs[kCount];
    BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
        runs[r] = open_inputs<S>(task, dropper.index, Position{o + r, range.channel_begin, 0});
        runs[r].slot = in_slots ? r : 0;
    }
    const auto fetch_inputs = [&](std::int64_t i) __attribute__((always_inline)) {
        if (sizeof(S) == 2 && i % (2 * kLanes) != 0) return;  // a line of memory is two vectors
        const std::int64_t ahead_x = rows_ahead<S, kCount>(stride_x, width, i);
        const std::int64_t ahead_dy = rows_ahead<S, kCount>(stride_dy, width, i);
        const std::int64_t ahead_residual = rows_ahead<S, kCount>(stride_residual, width, i);
        BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
            fetch(runs[r].x + i + ahead_x);
            fetch(runs[r].dy + i + ahead_dy);
            if (has_residual) fetch(runs[r].residual + i + ahead_residual);
        }
    };
    // Adds to the sums of the vector at i what add(r, affine, sums) adds for each row r.
    const auto add_rows = [&](std::int64_t i, auto lanes, auto add) __attribute__((always_inline)) {
        const auto affine = load_affine<T, true>(coefficients, range.channel_begin + i);
        GradientSums sums{lanes.load(sum_dz + i), lanes.load(sum_product + i)};
        if constexpr (kShort) {
            ShortGradientSums run[2];
            BNFAST_UNROLL for (int r = 0; r < kCount; ++r) add(r, affine, run[r % 2]);
            sums.add_run(run[0], run[1]);
        } else {
            BNFAST_UNROLL for (int r = 0; r < kCount; ++r) add(r, affine, sums);
        }
        lanes.store(sum_dz + i, sums.dz, false);
        lanes.store(sum_product + i, sums.product, false);
    };
    if constexpr (Loop::kPlain) {
        for_each_vector(width, 0, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
            fetch_inputs(i);
            add_rows(i, lanes, [&](int r, const Affine<T>& affine, auto& sums) __attribute__((always_inline)) {
                add_plain<S>(loop, dropper, runs[r], i, lanes, affine, sums);
            });
        });
    } else {
        constexpr std::int64_t kPiece = kStaged / kCount;
        Stage<T> stage;
        for (std::int64_t begin = 0, n; begin < width; begin += n) {
            n = width - begin < kPiece ? width - begin : kPiece;
            for_each_vector(n, 0, [&](std::int64_t k, auto lanes) __attribute__((always_inline)) {
                const auto affine = load_affine<T, true>(coefficients, range.channel_begin + begin + k);
                fetch_inputs(begin + k);
                BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
                    put_on_stage<S>(loop, dropper, runs[r], begin + k, lanes, affine, stage, r * kPiece + k);
                }
            });
            for (int r = 0; r < kCount; ++r) loop.backward(stage.z + r * kPiece, stage.dz + r * kPiece, n);
            for_each_vector(n, 0, [&](std::int64_t k, auto lanes) __attribute__((always_inline)) {
                add_rows(begin + k, lanes,
                         [&](int r, const Affine<T>& affine, auto& sums) __attribute__((always_inline)) {
                             add_staged(from_stage<S>(loop, runs[r], begin + k, lanes, affine, stage, r * kPiece + k),
                                        centred, false, 0, sums);
                         });
            });
        }
    }
}

template <class S, class Loop>
void sum_gradients_rows(const Loop& loop, const BackwardTask& task, const Dropper<Compute<S>>& dropper,
                        const BlockSpan& span, const BlockRange& range, double* sum_dz, double* sum_product) {
    const std::int64_t width = range.channel_end - range.channel_begin;
    for (std::int64_t c = 0; c < width; ++c) sum_dz[c] = sum_product[c] = 0.0;
    std::int64_t o = span.outer_begin;
    constexpr int kCount = 4;  // of two tensors: as many lines of memory at once as the moments' eight rows
    const bool drops = Loop::drops(dropper.used);
    const std::int64_t between = (kCount - 1) * task.mask.all_channels;  // mask elements from the first row to the last
    const bool together = task.mask.all_channels % kLanes == 0 && between + width <= kMostPrepared &&
                          !dropper.window.stores_runs();  // one portion of bits, in which all rows line up
    if constexpr (sizeof(S) == 2) {
        // Which rows go together with dropout is a matter of speed, so that these are no short runs.
        if (!task.where.are_there() && !drops && goes_in_short_runs<S, Loop>(task)) {
            for (; o + kShortRun <= span.outer_end; o += kShortRun) {
                add_gradient_rows<S, kShortRun, true>(loop, task, dropper, o, range, false, sum_dz, sum_product);
            }
        }
    }
    if (!task.where.are_there() && drops && stores_row_batches(task.mask)) {
        for (; o + kCount <= span.outer_end; o += kCount) {
            for (std::int64_t c = 0; c < width; c += kWholeBatches) {
                const std::int64_t first = range.channel_begin + c;
                for (int r = 0; r < kCount; ++r) {
                    dropper.prepare(dropper.index.of(Position{o + r, first, 0}), kWholeBatches);
                }
                const BlockRange strip{first, first + kWholeBatches, 0, 0, 0};
                add_gradient_rows<S, kCount>(loop, task, dropper, o, strip, false, sum_dz + c, sum_product + c);
            }
        }
    } else if (!task.where.are_there() && (!drops || together)) {
        for (; o + kCount <= span.outer_end; o += kCount) {
            if (drops) dropper.prepare(dropper.index.of(Position{o, range.channel_begin, 0}), between + width);
            add_gradient_rows<S, kCount>(loop, task, dropper, o, range, false, sum_dz, sum_product);
        }
    } else if (!task.where.are_there() && dropper.window.stores_runs() && width <= kMostPrepared) {
        static_assert(kCount <= MaskWindow::kSlots, "a slot for each row");
        for (; o + kCount <= span.outer_end; o += kCount) {
            for (int r = 0; r < kCount; ++r) {
                dropper.prepare(dropper.index.of(Position{o + r, range.channel_begin, 0}), width, r);
            }
            add_gradient_rows<S, kCount>(loop, task, dropper, o, range, true, sum_dz, sum_product);
        }
    }
    for (; o < span.outer_end; ++o) {
        if (task.where.are_there() && !bit_at(task.where.bits, o)) continue;
        const std::int64_t most = drops ? kMostPrepared : width;
        for (std::int64_t c = 0, n; c < width; c += n) {
            n = width - c < most ? width - c : most;
            if (drops) dropper.prepare(dropper.index.of(Position{o, range.channel_begin + c, 0}), n);
            const BlockRange piece{range.channel_begin + c, range.channel_begin + c + n, 0, 0, 0};
            add_gradient_rows<S, 1>(loop, task, dropper, o, piece, false, sum_dz + c, sum_product + c);
        }
    }
}

// Short planes and narrow rows.
template <class S, class Loop>
void sum_gradients_flat(const Loop& loop, const BackwardTask& task, const BlockSpan& span, const BlockRange& range,
                        double* sum_dz, double* sum_product) {
    using T = Compute<S>;
    const Geometry& g = task.geometry;
    const Fold fold(g);
    double dz[kFlatArray], product[kFlatArray];
    for (std::int64_t first = range.channel_begin, count; first < range.channel_end; first += count) {
        count = range.channel_end - first < fold.strip() ? range.channel_end - first : fold.strip();
        FlatCoefficients<T> coefficients(fold, first, count);
        const BackwardTask flat = flat_rows_of_sums(task, coefficients, first, count, sizeof(S));
        MaskWindow window(task.mask, g);  // a stored mask is that of all channels, not of this strip
        const Dropper<T> dropper(window, flat.mask, flat.geometry);
        const BlockRange row{0, count * fold.count, 0, 0, 0};
        if (!g.rows) {
            sum_gradients_rows<S>(loop, flat, dropper, span, row, dz, product);
        } else {
            std::int64_t o = span.outer_end / kRowsInFlat * kRowsInFlat;
            sum_gradients_rows<S>(loop, flat, dropper, {span.outer_begin / kRowsInFlat, o / kRowsInFlat, 0, 1}, row, dz,
                                  product);
            MaskWindow rest_window(task.mask, g);
            const Dropper<T> rest(rest_window, task.mask, g);
            for (std::int64_t c = 0; o < span.outer_end; ++o, c += g.channels) {
                if (Loop::drops(rest.used)) rest.prepare(rest.index.of(Position{o, 0, 0}), g.channels);
                add_gradient_rows<S, 1>(loop, task, rest, o, {0, g.channels, 0, 0, 0}, false, dz + c, product + c);
            }
        }
        fold_sums(fold, count, dz);
        fold_sums(fold, count, product);
        for (std::int64_t c = 0; c < count; ++c) {
            sum_dz[first - range.channel_begin + c] = dz[c];
            sum_product[first - range.channel_begin + c] = product[c];
        }
    }
}

// --- blocks -----------------------------------------------------------------------------------------------------

// Sums of block b for the channels of `range`.
template <class S, class Loop>
void sum_gradients(const Loop& loop, const BackwardTask& task, const Dropper<Compute<S>>& dropper,
                   const BlockRange& range, std::int64_t b, double* sum_dz, double* sum_product) {
    const BlockSpan span = span_of(task.geometry, task.blocks, b);
    if (task.geometry.flat) return sum_gradients_flat<S>(loop, task, span, range, sum_dz, sum_product);
    if (task.geometry.rows) return sum_gradients_rows<S>(loop, task, dropper, span, range, sum_dz, sum_product);
    const std::int64_t together = planes_together(task.geometry);
    for (std::int64_t c = range.channel_begin; c < range.channel_end; c += together) {
        const std::int64_t count = c + together < range.channel_end ? together : range.channel_end - c;
        double *const dz = sum_dz + (c - range.channel_begin), *const product = sum_product + (c - range.channel_begin);
        if (goes_in_short_runs<S, Loop>(task)) {
            sum_gradients_planes<S, sizeof(S) == 2>(loop, task, dropper, span, c, count, dz, product);
        } else if constexpr (sizeof(S) != 2 || !Loop::kPlain) {
            sum_gradients_planes<S, false>(loop, task, dropper, span, c, count, dz, product);
        }
    }
}

BNFAST_INLINE bool is_finite(double value) { return value - value == 0.0; }

// Makes sums about zero those about the mean. Channels that have to be centred from the start, or whose sums came to
// nothing, are summed again; those of 16-bit x where short runs were not enough.
template <class S>
void move_to_mean(const BackwardTask& task, const BlockRange& range, std::int64_t b, double* sum_dz,
                  double* sum_dz_xmu) {
    const Geometry& g = task.geometry;
    const double* mean = task.centre.mean + range.channel_begin;
    const bool* centred = task.centre.centred + range.channel_begin;
    const auto stands = [&](std::int64_t c) {
        return sizeof(S) == 2 ? sums_stand(sum_dz[c], sum_dz_xmu[c]) : !centred[c] && is_finite(sum_dz_xmu[c]);
    };
    bool all = true;
    for (std::int64_t c = 0; c < range.channel_end - range.channel_begin; ++c) {
        if constexpr (sizeof(S) == 4) sum_dz_xmu[c] = sum_about_mean(sum_dz_xmu[c], sum_dz[c], mean[c]);
        all &= stands(c);
    }
    if (all) return;
    const GeneralLoop<Compute<S>> loop(task.activation);
    BackwardTask again = task;
    again.sums = Sums::kCentred;
    again.mask.stored.words = nullptr;  // its words may be those of other blocks, too
    MaskWindow window(again.mask, g);
    const Dropper<Compute<S>> dropper(window, again.mask, g);
    const std::int64_t strip = g.flat && g.rows ? g.channels : g.rows ? kLanes : 1;
    double dz[kLanes], dz_xmu[kLanes];
    for (std::int64_t begin = range.channel_begin, end; begin < range.channel_end; begin = end) {
        end = begin + strip < range.channel_end ? begin + strip : range.channel_end;
        all = true;
        for (std::int64_t c = begin; c < end; ++c) all &= stands(c - range.channel_begin);
        if (all) continue;
        sum_gradients<S>(loop, again, dropper, {begin, end, b, b + 1, 0}, b, dz, dz_xmu);
        for (std::int64_t c = begin; c < end; ++c) {
            const std::int64_t k = c - range.channel_begin;
            if (stands(k)) continue;
            sum_dz[k] = dz[c - begin];
            sum_dz_xmu[k] = dz_xmu[c - begin];
        }
    }
}

template <class S>
void backward_sums(const BackwardTask& task, const BlockRange& range, const BlockSums& out) noexcept {
    with_loop<Compute<S>>(task, [&](const auto& loop) __attribute__((always_inline)) {
        MaskWindow window(task.mask, task.geometry);
        const Dropper<Compute<S>> dropper(window, task.mask, task.geometry);
        for (std::int64_t b = range.block_begin; b < range.block_end; ++b) {
            const std::int64_t k = (b - range.block_begin) * range.pitch;
            sum_gradients<S>(loop, task, dropper, range, b, out.dz + k, out.dz_xmu + k);
            if constexpr (sizeof(S) < 8) {
                if (task.sums == Sums::kAboutZero) move_to_mean<S>(task, range, b, out.dz + k, out.dz_xmu + k);
            }
        }
    });
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
