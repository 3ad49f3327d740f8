// Forward where parameters lie along the inner elements (layer norm): a few channels are measured and then normalised
// while they are in the first cache, and those behind them fetched meanwhile.
#pragma once

#include "cpu/kernels/channels.h"
#include "cpu/kernels/forward.h"
#include "cpu/kernels/moments.h"
#include "cpu/kernels/prologue.h"

namespace bnfast {
namespace BNFAST_TARGET {

using cpu::AlongForwardTask;
using cpu::kAlongTogether;

// kCount channels from `first` on of a call with nothing behind the norm: each parameter is loaded once for all.
template <class S, int kCount, bool kStreaming>
void normalise_channels_along(const ForwardTask& task, std::int64_t first, std::int64_t begin, std::int64_t n) {
    using T = Compute<S>;
    const S* x[kCount];
    S* y[kCount];
    Affine<T> affine[kCount];
    BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
        x[r] = at<S>(task.x, Position{0, first + r, begin});
        y[r] = at<S>(task.y, Position{0, first + r, begin});
        affine[r] = load_affine<T, false>(known<true>(task.affine), first + r);
    }
    const AlongRun<T> along = open_along<T>(task.along, task.geometry, Position{0, first, begin});
    // What is fetched in vain, where all is in the cache, costs less than to ask.
    const std::int64_t ahead = fetch_distance<S>(task.x, task.fetch_channels);
    for_each_vector(n, kStreaming ? head_of(y[0]) : 0, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
        const ScaleAndShift<Vec<T>> parameters = along.at(i, lanes);
        BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
            fetch(x[r] + i + ahead);
            const Vec<T> z = affine[r].apply(affine[r].centre(lanes.load(x[r] + i)));
            lanes.store(y[r] + i, parameters.apply(z), kStreaming);
        }
    });
}

// Whether channels are whole pages apart, and have the same few places in the first cache.
template <class S>
BNFAST_INLINE bool apart_by_pages(const Operand& operand) {
    constexpr std::int64_t kPage = 4096;
    return operand.channel_stride * static_cast<std::int64_t>(sizeof(S)) % kPage == 0;
}
// Whether several channels can go together: with the same parameters, and vectors that are aligned alike in all of
// them.
template <class S>
BNFAST_INLINE bool channels_go_together(const AlongInner& along, const Operand& output) {
    constexpr std::int64_t kLine = 64;
    const bool alike = output.channel_stride * static_cast<std::int64_t>(sizeof(S)) % kLine == 0;
    return along.period == 1 && alike && !apart_by_pages<S>(output);
}

// Coefficients of a channel, or of two where a vector reaches into the next one, and where the first of them begins.
template <class Coefficients>
struct InRun {
    Coefficients coefficients;
    std::int64_t begin;
};
template <class T, class Coefficients>
BNFAST_INLINE InRun<Coefficients> blend(Mask<T> mask, const InRun<Coefficients>& a, const InRun<Coefficients>& b) {
    return {blend(mask, a.coefficients, b.coefficients), a.begin};
}
// Whether channels are streamed out whose lines are not their own. As one run, all of its lines are whole but for those
// at its ends, and a line that is not takes as long as a short channel.
template <class S>
BNFAST_INLINE bool goes_as_one_run(const Geometry& g, const Operand& output, const Tile& tile) {
    const bool shares_lines = head_of(static_cast<const S*>(output.data)) != 0 || g.inner % kLanes != 0;
    return shares_lines && whole(tile, g) && dense(output, g);
}

template <class S>
void normalise_run_along(const ForwardTask& task, const Tile& tile) {
    using T = Compute<S>;
    struct Run {
        const S* x;
        S* y;
    };
    const Geometry g = task.geometry;
    const AffineArrays affine = known<true>(task.affine);
    const AlongRun<T> along = open_along<T>(task.along, g, Position{0, tile.channel_begin, 0});
    const std::int64_t ahead = fetch_distance<S>(task.x, task.fetch_channels);
    for_each_in_dense_planes<S>(
        g, tile, 0, kEverything,
        [&](const Position& p) __attribute__((always_inline)) { return Run{at<S>(task.x, p), at<S>(task.y, p)}; },
        [](const Run& run) __attribute__((always_inline)) { return head_of(run.y); },
        [&](std::int64_t c) __attribute__((always_inline)) {
            return InRun<Affine<T>>{load_affine<T, false>(affine, c), (c - tile.channel_begin) * g.inner};
        },
        [&](const Run& run, std::int64_t, std::int64_t, auto walk) __attribute__((always_inline)) {
            walk([&](std::int64_t i, auto lanes, const InRun<Affine<T>>& c, std::int64_t)
                     __attribute__((always_inline)) {
                         fetch(run.x + i + ahead);
                         const Vec<T> z = c.coefficients.apply(c.coefficients.centre(lanes.load(run.x + i)));
                         lanes.store(run.y + i, along.at(i - c.begin, lanes).apply(z), true);
                     });
        });
}

template <class S, bool kStreaming>
void normalise_tile_along(const ForwardTask& task, const Tile& tile) {
    const std::int64_t n = tile.inner_end - tile.inner_begin;
    std::int64_t c = tile.channel_begin;
    if (channels_go_together<S>(task.along, task.y)) {
        for (; c + kAlongTogether <= tile.channel_end; c += kAlongTogether) {
            normalise_channels_along<S, kAlongTogether, kStreaming>(task, c, tile.inner_begin, n);
        }
    }
    for (; c < tile.channel_end; ++c) normalise_channels_along<S, 1, kStreaming>(task, c, tile.inner_begin, n);
}
template <class S>
void normalise_tile_along(const ForwardTask& task, const Tile& tile) {
    if (task.streaming && task.along.period == 1 && dense(task.x, task.geometry) &&
        goes_as_one_run<S>(task.geometry, task.y, tile)) {
        return normalise_run_along<S>(task, tile);
    }
    task.streaming ? normalise_tile_along<S, true>(task, tile) : normalise_tile_along<S, false>(task, tile);
}

// Channels that are handled at once, and the coefficients of so many. Whole groups of those that go together: 16-bit
// gradients add these in float32, and which they are must not depend on how a call is cut.
constexpr std::int64_t kAlongBatch = 16, kAlongBatchBytes = 16384;
static_assert(kAlongBatch % kAlongTogether == 0, "or the last group of a batch is cut");
template <class S>
BNFAST_INLINE std::int64_t along_batch(std::int64_t inner, std::int64_t operands) {
    const std::int64_t fit = kAlongBatchBytes / (inner * operands * static_cast<std::int64_t>(sizeof(S)));
    const std::int64_t whole = fit / kAlongTogether * kAlongTogether;
    return whole < kAlongTogether ? kAlongTogether : whole > kAlongBatch ? kAlongBatch : whole;
}
template <class T>
struct AlongCoefficients {
    static constexpr std::int64_t kEntries = kAlongBatch + cpu::kPadding;
    T prescale[kEntries], mean_high[kEntries], mean_low[kEntries], scale[kEntries], shift[kEntries];
    double ones[kAlongBatch], zeros[kAlongBatch];

    BNFAST_INLINE AlongCoefficients() {
        for (std::int64_t c = 0; c < kAlongBatch; ++c) {
            ones[c] = 1.0;
            zeros[c] = 0.0;
        }
    }
    // Those of `count` channels from `first` on, whose gamma is 1 and beta 0.
    BNFAST_INLINE AffineArrays fill(const cpu::ChannelStatistics& statistics, std::int64_t first, std::int64_t count) {
        AffineArrays arrays;
        arrays.prescale = prescale;
        arrays.mean_high = mean_high;
        arrays.mean_low = mean_low;
        arrays.scale = scale;
        arrays.shift = shift;
        cpu::AffineInputs inputs;
        inputs.mean = statistics.mean + first;
        inputs.mean_low = statistics.mean_low + first;
        inputs.m2 = statistics.m2 + first;
        inputs.count = statistics.count + first;
        inputs.invstd = statistics.invstd + first;
        inputs.gamma = ones;
        inputs.beta = zeros;
        fill_coefficients<T>(inputs, count, arrays, cpu::SumsCentre{});
        return arrays;
    }
};

// Measures channels [first, first + count), whose numbers go to their places among the statistics.
template <class S>
void measure_channels_along(const AlongForwardTask& task, std::int64_t first, std::int64_t count) {
    const MomentsTask moments_task{task.forward.geometry, task.blocks, task.forward.x, WhereBits{}, task.block_counts};
    const cpu::ChannelStatistics& s = task.statistics;
    const BlockMoments merged{s.mean + first, s.mean_low + first, s.m2 + first};
    if (task.blocks.count == 1) {
        moments<S>(moments_task, {first, first + count, 0, 1, count}, merged);
    } else {
        double mean[cpu::kMostAlongBlocks * kAlongBatch], mean_low[cpu::kMostAlongBlocks * kAlongBatch];
        double m2[cpu::kMostAlongBlocks * kAlongBatch];
        moments<S>(moments_task, {first, first + count, 0, task.blocks.count, count}, {mean, mean_low, m2});
        merge_moments({mean, mean_low, m2}, task.block_counts, task.blocks.count, count, count);
        for (std::int64_t c = 0; c < count; ++c) {
            merged.mean[c] = mean[c];
            merged.mean_low[c] = mean_low[c];
            merged.m2[c] = m2[c];
        }
    }
    for (std::int64_t c = first; c < first + count; ++c) {
        s.count[c] = static_cast<double>(task.forward.geometry.inner);
        if (!task.about_zero) continue;
        const auto zero = about_zero(PartMoments<double>{s.mean[c], s.mean_low[c], s.m2[c]}, s.count[c]);
        s.mean[c] = zero.mean;
        s.mean_low[c] = zero.mean_low;
        s.m2[c] = zero.m2;
    }
    invstd(s.m2 + first, s.count + first, task.eps, task.placement, count, s.invstd + first);
}

template <class S>
void forward_along(const AlongForwardTask& task, std::int64_t begin, std::int64_t end) noexcept {
    using T = Compute<S>;
    AlongCoefficients<T> coefficients;
    const Geometry& g = task.forward.geometry;
    const std::int64_t batch = along_batch<S>(g.inner, task.prologue.used ? 3 : 1);
    ForwardTask part = task.forward;
    for (std::int64_t first = begin, count; first < end; first += count) {
        count = end - first < batch ? end - first : batch;
        if (task.prologue.used) prologue<S>(task.prologue, g, {0, 1, first, first + count, 0, g.inner});
        measure_channels_along<S>(task, first, count);
        part.affine = coefficients.fill(task.statistics, first, count);
        part.fetch_channels = task.prologue.used || end - first < 2 * batch ? cpu::kFetchNothing : count;
        // The coefficients are those of this batch.
        part.x.data = at<S>(task.forward.x, 0, first);
        part.y.data = at<S>(task.forward.y, 0, first);
        part.along.first = task.forward.along.first + first;
        part.mask.first_channel = task.forward.mask.first_channel + first;
        if (task.forward.residual.is_there()) part.residual.data = at<S>(task.forward.residual, 0, first);
        write_tile<S>(part, {0, 1, 0, count, 0, g.inner});
    }
    if (task.forward.streaming) stream_fence();
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
