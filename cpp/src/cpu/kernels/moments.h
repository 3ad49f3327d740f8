// Mean and sum of squared deviations of blocks, in one read of x from memory: to float64 accuracy, for 16-bit x to that
// of float32.
//
// Sums are taken about a pivot (numerics/moments.h). For 32-bit and narrower x the first try has the pivot 0: x^2 is
// then exact in float64 and costs one fused operation, or is summed in short runs (numerics/sums.h). Where its moments
// are not to be trusted, the block, still in cache, is summed again: about its mean, or, after short runs, in float64
// about 0, where few enough digits of 16-bit x are lost. The choice is a channel's own.
#pragma once

#include "cpu/kernels/flat.h"
#include "numerics/moments.h"

namespace bnfast {
namespace BNFAST_TARGET {

// How a block is summed: in short runs or in float64 about zero, or in float64 about a pivot.
enum class Method { kShortRuns, kFloat64, kPivot };
template <class S>
constexpr Method kFirst = sizeof(S) == 2   ? Method::kShortRuns
                          : sizeof(S) == 4 ? Method::kFloat64
                                           : Method::kPivot;
template <class S>
constexpr Method kSecond = sizeof(S) == 2 ? Method::kFloat64 : Method::kPivot;
template <Method kMethod>  // of a row by itself
constexpr Method kOfOneRow = kMethod == Method::kShortRuns ? Method::kFloat64 : kMethod;

// The sums of a short run.
struct ShortSums {
    Vec<float> s = Vec<float>(0.0F), q = Vec<float>(0.0F);

    BNFAST_INLINE void add(Vec<float> x) {
        s = s + x;
        q = q + x * x;
    }
};
template <class S>
BNFAST_INLINE bool is_trusted(double q, double m2) {
    return sizeof(S) == 2 ? trusted_in_short_runs(q, m2) : trusted(q, m2);
}

BNFAST_INLINE void finish_block(double n, double pivot, double s, double q, double& mean, double& mean_low,
                                double& m2) {
    const PartMoments<double> moments = moments_about(pivot, n, s, q);
    mean = moments.mean;
    mean_low = moments.mean_low;
    m2 = moments.m2;
}

// The same for `count` channels with blocks of n elements; whether all of them are to be trusted.
template <class S>
bool finish_blocks(std::int64_t count, double n, const double* pivot, const double* s, const double* q,
                   const BlockMoments& out) {
    for_each_vector(count, 0, [&](std::int64_t c, auto lanes) __attribute__((always_inline)) {
        const PartMoments<Vec<double>> moments =
            moments_about(lanes.load(pivot + c), Vec<double>(n), lanes.load(s + c), lanes.load(q + c));
        lanes.store(out.mean + c, moments.mean, false);
        lanes.store(out.mean_low + c, moments.mean_low, false);
        lanes.store(out.m2 + c, moments.m2, false);
    });
    bool all = true;
    for (std::int64_t c = 0; c < count; ++c) all &= is_trusted<S>(q[c], out.m2[c]);
    return all;
}

// --- planes -----------------------------------------------------------------------------------------------------

// Sums of `count` neighbouring channels about their pivots: plane after plane as they lie in memory.
template <class S, Method kMethod, bool kMasked>
void sum_planes(const MomentsTask& task, std::int64_t channel, std::int64_t count, const BlockSpan& span,
                const double* pivot, double* sum_s, double* sum_q) {
    Vec<double> s[kPlanesTogether], q[kPlanesTogether];
    for (std::int64_t c = 0; c < count; ++c) s[c] = q[c] = Vec<double>(0.0);
    const std::int64_t n = span.inner_end - span.inner_begin;
    for (std::int64_t o = span.outer_begin; o < span.outer_end; ++o) {
        const std::uint8_t* bits = task.where.bits + (kMasked ? o * task.where.pitch : 0);
        for (std::int64_t c = 0; c < count; ++c) {
            const S* run = at<S>(task.x, Position{o, channel + c, span.inner_begin});
            const Vec<double> p(kMethod == Method::kPivot ? pivot[c] : 0.0);
            Vec<double> sum = s[c], square = q[c];
            if constexpr (kMethod == Method::kShortRuns) {
                for_each_short_run<ShortSums>(
                    n,
                    [&](std::int64_t i, auto lanes, ShortSums& sums) __attribute__((always_inline)) {
                        fetch(run + i + kAlong<S>);
                        Vec<float> x = lanes.load(run + i);
                        if constexpr (kMasked) {
                            x = select(lanes_of<float>(bits_from(bits, span.inner_begin + i)), x, Vec<float>(0.0F));
                        }
                        sums.add(x);
                    },
                    [&](const ShortSums& even, const ShortSums& odd) __attribute__((always_inline)) {
                        sum = sum + widen(even.s + odd.s);
                        square = square + widen(even.q + odd.q);
                    });
                s[c] = sum;
                q[c] = square;
                continue;
            }
            for_each_vector(n, 0, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
                fetch(run + i + kAlong<S>);
                Vec<double> v = lanes.load_wide(run + i);
                if constexpr (kMethod == Method::kPivot) v = lanes.keep_loaded(v - p);
                if constexpr (kMasked) {
                    v = select(lanes_of<double>(bits_from(bits, span.inner_begin + i)), v, Vec<double>(0.0));
                }
                sum = sum + v;
                if constexpr (kMethod == Method::kPivot) {
                    square = square + v * v;
                } else {
                    square = add_exact_product(square, v, v);
                }
            });
            s[c] = sum;
            q[c] = square;
        }
    }
    for (std::int64_t c = 0; c < count; ++c) {
        sum_s[c] = sum_lanes(s[c]);
        sum_q[c] = sum_lanes(q[c]);
    }
}

// Some element of the block that takes part.
template <class S, bool kMasked>
double pivot_of(const MomentsTask& task, std::int64_t channel, const BlockSpan& span) {
    for (std::int64_t o = span.outer_begin; o < span.outer_end; ++o) {
        for (std::int64_t i = span.inner_begin; i < span.inner_end; ++i) {
            if (!kMasked || bit_at(task.where.bits + o * task.where.pitch, i)) {
                if constexpr (sizeof(S) == 8) return static_cast<double>(*(at<S>(task.x, o, channel) + i));
            }
        }
    }
    return 0.0;
}

template <class S, bool kMasked>
void moments_planes(const MomentsTask& task, const BlockRange& range, const BlockMoments& out) {
    const std::int64_t together = planes_together(task.geometry);
    double pivot[kPlanesTogether], s[kPlanesTogether], q[kPlanesTogether];
    for (std::int64_t b = range.block_begin; b < range.block_end; ++b) {
        const BlockSpan span = span_of(task.geometry, task.blocks, b);
        const double n = task.counts[b];
        for (std::int64_t first = range.channel_begin; first < range.channel_end; first += together) {
            const std::int64_t count = first + together < range.channel_end ? together : range.channel_end - first;
            const std::int64_t k = (b - range.block_begin) * range.pitch + (first - range.channel_begin);
            double *mean = out.mean + k, *mean_low = out.mean_low + k, *m2 = out.m2 + k;
            if (n == 0.0) {
                for (std::int64_t c = 0; c < count; ++c) mean[c] = mean_low[c] = m2[c] = 0.0;
                continue;
            }
            for (std::int64_t c = 0; c < count; ++c) {
                pivot[c] = sizeof(S) == 8 ? pivot_of<S, kMasked>(task, first + c, span) : 0.0;
            }
            sum_planes<S, kFirst<S>, kMasked>(task, first, count, span, pivot, s, q);
            if (finish_blocks<S>(count, n, pivot, s, q, {mean, mean_low, m2})) continue;
            for (std::int64_t c = 0; c < count; ++c) {
                if (is_trusted<S>(q[c], m2[c])) continue;
                pivot[c] = kSecond<S> == Method::kPivot ? mean[c] : 0.0;
                sum_planes<S, kSecond<S>, kMasked>(task, first + c, 1, span, pivot + c, s + c, q + c);
                finish_block(n, pivot[c], s[c], q[c], mean[c], mean_low[c], m2[c]);
            }
        }
    }
}

// --- rows: the running sums of all channels live in the output arrays, in L1 ------------------------------------

// Adds kCount rows from row `o` on to the sums of the channels; p is null or has the channels' pivots.
template <class S, Method kMethod, int kCount>
void add_rows(const MomentsTask& task, std::int64_t o, const BlockRange& range, const double* p, double* s, double* q) {
    const S* row = at<S>(task.x, o, range.channel_begin);
    const std::int64_t stride = task.x.outer_stride, width = range.channel_end - range.channel_begin;
    for_each_vector(width, 0, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
        Vec<double> sum = lanes.load(s + i), square = lanes.load(q + i);
        const std::int64_t ahead = rows_ahead<S, kCount>(stride, width, i);
        if constexpr (kMethod == Method::kShortRuns) {
            ShortSums sums[2];
            if (i % (2 * kLanes) == 0) {  // a line of memory is two vectors
                BNFAST_UNROLL for (int r = 0; r < kCount; ++r) fetch(row + r * stride + i + ahead);
            }
            BNFAST_UNROLL for (int r = 0; r < kCount; ++r) sums[r % 2].add(lanes.load(row + r * stride + i));
            lanes.store(s + i, sum + widen(sums[0].s + sums[1].s), false);
            lanes.store(q + i, square + widen(sums[0].q + sums[1].q), false);
            return;
        }
        BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
            const S* x = row + r * stride + i;
            fetch(x + ahead);
            Vec<double> v = lanes.load_wide(x);
            if constexpr (kMethod == Method::kPivot) v = v - load(p + i);
            sum = sum + v;
            if constexpr (kMethod == Method::kPivot) {
                square = square + v * v;
            } else {
                square = add_exact_product(square, v, v);
            }
        }
        lanes.store(s + i, sum, false);
        lanes.store(q + i, square, false);
    });
}

template <class S, Method kMethod>
void sum_rows(const MomentsTask& task, const BlockSpan& span, const BlockRange& range, const double* p, double* s,
              double* q) {
    const std::int64_t width = range.channel_end - range.channel_begin;
    for (std::int64_t c = 0; c < width; ++c) s[c] = q[c] = 0.0;
    std::int64_t o = span.outer_begin;
    if (!task.where.are_there()) {
        constexpr int kAtOnce = kMethod == Method::kShortRuns ? kShortRun : kRowsAtOnce;
        for (; o + kAtOnce <= span.outer_end; o += kAtOnce) {
            add_rows<S, kMethod, kAtOnce>(task, o, range, p, s, q);
        }
    }
    for (; o < span.outer_end; ++o) {
        if (task.where.are_there() && !bit_at(task.where.bits, o)) continue;
        add_rows<S, kOfOneRow<kMethod>, 1>(task, o, range, p, s, q);
    }
}

// Sums again, about their means, the channels of [begin, begin + 16) whose first try is not to be trusted.
template <class S>
void redo_strip(const MomentsTask& task, const BlockSpan& span, const BlockRange& range, std::int64_t begin, double n,
                double* s, double* q, double* mean, double* mean_low, double* m2) {
    double pivot[kLanes], again_s[kLanes], again_q[kLanes];
    const std::int64_t width = range.channel_end - range.channel_begin;
    const std::int64_t strip = width - begin < kLanes ? width - begin : kLanes;
    constexpr bool kAboutMean = kSecond<S> == Method::kPivot;
    for (std::int64_t c = 0; c < kLanes; ++c) pivot[c] = kAboutMean && c < strip ? mean[begin + c] : 0.0;
    const BlockRange channels{range.channel_begin + begin, range.channel_begin + begin + strip, 0, 0, 0};
    sum_rows<S, kSecond<S>>(task, span, channels, pivot, again_s, again_q);
    for (std::int64_t c = 0; c < strip; ++c) {
        const std::int64_t k = begin + c;
        if (is_trusted<S>(q[k], m2[k])) continue;
        s[k] = again_s[c];
        q[k] = again_q[c];
        finish_block(n, pivot[c], s[k], q[k], mean[k], mean_low[k], m2[k]);
    }
}

template <class S>
void moments_rows(const MomentsTask& task, const BlockRange& range, const BlockMoments& out) {
    const std::int64_t width = range.channel_end - range.channel_begin;
    constexpr std::int64_t kStrip = 1024;  // channels whose sums stay in L1
    double s[kStrip + kLanes], q[kStrip + kLanes], p[kStrip + kLanes];
    for (std::int64_t b = range.block_begin; b < range.block_end; ++b) {
        const BlockSpan span = span_of(task.geometry, task.blocks, b);
        const double n = task.counts[b];
        for (std::int64_t c0 = 0; c0 < width; c0 += kStrip) {
            const std::int64_t c1 = c0 + kStrip < width ? c0 + kStrip : width;
            const BlockRange channels{range.channel_begin + c0, range.channel_begin + c1, 0, 0, 0};
            const std::int64_t k = (b - range.block_begin) * range.pitch + c0;
            double *mean = out.mean + k, *mean_low = out.mean_low + k, *m2 = out.m2 + k;
            if (n == 0.0) {
                for (std::int64_t c = 0; c < c1 - c0; ++c) mean[c] = mean_low[c] = m2[c] = 0.0;
                continue;
            }
            if constexpr (sizeof(S) == 8) {
                std::int64_t first = span.outer_begin;  // the first row that takes part is the pivot
                while (task.where.are_there() && !bit_at(task.where.bits, first)) ++first;
                for (std::int64_t c = 0; c < c1 - c0; ++c) p[c] = *at<S>(task.x, first, channels.channel_begin + c);
                sum_rows<S, kFirst<S>>(task, span, channels, p, s, q);
            } else {
                for (std::int64_t c = 0; c < c1 - c0; ++c) p[c] = 0.0;
                sum_rows<S, kFirst<S>>(task, span, channels, p, s, q);
            }
            if (finish_blocks<S>(c1 - c0, n, p, s, q, {mean, mean_low, m2})) continue;
            for (std::int64_t begin = 0; begin < c1 - c0; begin += kLanes) {
                const std::int64_t end = begin + kLanes < c1 - c0 ? begin + kLanes : c1 - c0;
                bool all = true;
                for (std::int64_t c = begin; c < end; ++c) all &= is_trusted<S>(q[c], m2[c]);
                if (!all) redo_strip<S>(task, span, channels, begin, n, s, q, mean, mean_low, m2);
            }
        }
    }
}

// --- short planes and narrow rows -------------------------------------------------------------------------------

// Sums for `count` channels from `first` on; p is null or has the pivots of the flat row.
template <class S, Method kMethod>
void sum_flat(const MomentsTask& task, const Fold& fold, const BlockSpan& span, std::int64_t first, std::int64_t count,
              const double* p, double* s, double* q) {
    const Geometry& g = task.geometry;
    MomentsTask flat = task;
    flat.x = flat_operand(task.x, g, first, sizeof(S));
    const BlockRange row{0, count * fold.count, 0, 0, 0};
    if (!g.rows) {
        sum_rows<S, kMethod>(flat, span, row, p, s, q);
    } else {
        std::int64_t o = span.outer_end / kRowsInFlat * kRowsInFlat;
        sum_rows<S, kMethod>(flat, {span.outer_begin / kRowsInFlat, o / kRowsInFlat, 0, 1}, row, p, s, q);
        for (std::int64_t c = 0; o < span.outer_end; ++o, c += g.channels) {
            add_rows<S, kOfOneRow<kMethod>, 1>(task, o, {0, g.channels, 0, 0, 0}, kMethod == Method::kPivot ? p + c : p,
                                               s + c, q + c);
        }
    }
    fold_sums(fold, count, s);
    fold_sums(fold, count, q);
}

template <class S>
void moments_flat(const MomentsTask& task, const BlockRange& range, const BlockMoments& out) {
    const Fold fold(task.geometry);
    constexpr bool kPivot = sizeof(S) == 8;
    double s[kFlatArray], q[kFlatArray], p[kFlatArray], pivot[kFlatArray];
    for (std::int64_t b = range.block_begin; b < range.block_end; ++b) {
        const BlockSpan span = span_of(task.geometry, task.blocks, b);
        const double n = task.counts[b];
        for (std::int64_t first = range.channel_begin, count; first < range.channel_end; first += count) {
            count = range.channel_end - first < fold.strip() ? range.channel_end - first : fold.strip();
            const std::int64_t k = (b - range.block_begin) * range.pitch + (first - range.channel_begin);
            double *mean = out.mean + k, *mean_low = out.mean_low + k, *m2 = out.m2 + k;
            for (std::int64_t c = 0; c < count; ++c) {
                pivot[c] = 0.0;
                if constexpr (kPivot) pivot[c] = *at<S>(task.x, span.outer_begin, first + c);
            }
            if constexpr (kPivot) Expansion<double>{fold}(count, pivot, p);
            sum_flat<S, kFirst<S>>(task, fold, span, first, count, p, s, q);
            if (finish_blocks<S>(count, n, pivot, s, q, {mean, mean_low, m2})) continue;
            double again_s[kFlatArray], again_q[kFlatArray];
            for (std::int64_t c = 0; c < count; ++c) pivot[c] = kSecond<S> == Method::kPivot ? mean[c] : 0.0;
            Expansion<double>{fold}(count, pivot, p);
            sum_flat<S, kSecond<S>>(task, fold, span, first, count, p, again_s, again_q);
            for (std::int64_t c = 0; c < count; ++c) {
                if (is_trusted<S>(q[c], m2[c])) continue;
                finish_block(n, pivot[c], again_s[c], again_q[c], mean[c], mean_low[c], m2[c]);
            }
        }
    }
}

template <class S>
void moments(const MomentsTask& task, const BlockRange& range, const BlockMoments& out) noexcept {
    if (task.geometry.flat) {
        moments_flat<S>(task, range, out);
    } else if (task.geometry.rows) {
        moments_rows<S>(task, range, out);
    } else if (task.where.are_there()) {
        moments_planes<S, true>(task, range, out);
    } else {
        moments_planes<S, false>(task, range, out);
    }
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
