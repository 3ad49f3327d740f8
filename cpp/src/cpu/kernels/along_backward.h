// Backward where parameters lie along the inner elements (layer norm): sums of each channel, which its statistic's
// gradient needs, and over channels for each parameter; and dx, while a few channels are in the first cache.
//
// A channel's sums are of dz * gamma, rounded to the type computed in as dx will have it; they are taken in that type
// over short runs, and these in float64 (all in float64 where that left float32's range). Those over channels are in
// float64, where products of float32 are exact; those of 16-bit tensors add as many channels as go together in float32.
#pragma once

#include "cpu/kernels/along_forward.h"
#include "cpu/kernels/backward.h"

namespace bnfast {
namespace BNFAST_TARGET {

using cpu::AlongBackwardTask;

template <class T>
BNFAST_INLINE Vec<double> add_product(Vec<double> sum, Vec<T> a, Vec<T> b) {
    if constexpr (sizeof(T) == 8) {
        return sum + a * b;
    } else {
        return add_exact_product(sum, widen(a), widen(b));
    }
}

// Sums of a channel's weighted dz and of its products with x - mean, lane by lane.
template <class T>
struct ChannelSums {
    Vec<double> dz{0.0}, dz_xmu{0.0};
    Vec<T> run_dz{T(0)}, run_dz_xmu{T(0)};  // of the short run that is under way

    BNFAST_INLINE void add(Vec<T> weighted, Vec<T> centred) {
        dz = dz + widen(weighted);
        dz_xmu = add_product<T>(dz_xmu, weighted, centred);
    }
    BNFAST_INLINE void add_to_run(Vec<T> weighted, Vec<T> centred) {
        run_dz = run_dz + weighted;
        run_dz_xmu = run_dz_xmu + weighted * centred;
    }
    BNFAST_INLINE void end_run() {
        dz = dz + widen(run_dz);
        dz_xmu = dz_xmu + widen(run_dz_xmu);
        run_dz = run_dz_xmu = Vec<T>(T(0));
    }
    BNFAST_INLINE void finish(double& sum_dz, double& sum_dz_xmu) const {
        sum_dz = sum_lanes(dz);
        sum_dz_xmu = sum_lanes(dz_xmu);
    }
};

// The sums of the parameters from `entry` on.
BNFAST_INLINE ParameterSums from_entry(const ParameterSums& sums, std::int64_t entry) {
    return {sums.dbeta + entry, sums.dgamma + entry};
}
BNFAST_INLINE std::int64_t first_entry(const BackwardTask& task, std::int64_t channel, const BlockSpan& span) {
    return (task.along.first + channel) % task.along.period * task.geometry.inner + span.inner_begin;
}

// Adds kCount channels from `first` on, over the inner elements of a block, to the sums of the parameters; their own
// sums go to `out`. The parameters of all of them are the same.
template <class S, int kCount>
void sum_channels_along(const BackwardTask& task, std::int64_t first, const BlockSpan& span,
                        const ParameterSums& parameters, const BlockSums& out) {
    using T = Compute<S>;
    const std::int64_t n = span.inner_end - span.inner_begin;
    const ParameterSums entries = from_entry(parameters, first_entry(task, first, span));
    const AlongRun<T> along = open_along<T>(task.along, task.geometry, Position{0, first, span.inner_begin});
    const S *x[kCount], *dy[kCount];
    Affine<T> affine[kCount];
    ChannelSums<T> sums[kCount];
    BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
        x[r] = at<S>(task.x, Position{0, first + r, span.inner_begin});
        dy[r] = at<S>(task.dy, Position{0, first + r, span.inner_begin});
        affine[r] = load_affine<T, false>(task.affine, first + r);
    }
    const auto add = [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
        const Vec<T> gamma = lanes.load(along.gamma + i);
        Vec<double> dgamma = lanes.load(entries.dgamma + i), dbeta = lanes.load(entries.dbeta + i);
        Vec<T> short_dgamma(T(0)), short_dbeta(T(0));
        BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
            fetch(x[r] + i + kAlong<S>);
            fetch(dy[r] + i + kAlong<S>);
            const Vec<T> dz = lanes.load(dy[r] + i), centred = affine[r].centre(lanes.load(x[r] + i));
            const Vec<T> normalised = centred * affine[r].scale;
            sums[r].add_to_run(dz * gamma, centred);
            if constexpr (sizeof(S) == 2) {
                short_dbeta = short_dbeta + dz;
                short_dgamma = short_dgamma + dz * normalised;
            } else {
                dbeta = dbeta + widen(dz);
                dgamma = add_product<T>(dgamma, dz, normalised);
            }
        }
        if constexpr (sizeof(S) == 2) {
            dbeta = dbeta + widen(short_dbeta);
            dgamma = dgamma + widen(short_dgamma);
        }
        lanes.store(entries.dgamma + i, dgamma, false);
        lanes.store(entries.dbeta + i, dbeta, false);
    };
    const auto end_run = [&]() __attribute__((always_inline)) {
        BNFAST_UNROLL for (int r = 0; r < kCount; ++r) sums[r].end_run();
    };
    const std::int64_t whole = n / kLanes * kLanes;
    std::int64_t i = 0;
    constexpr std::int64_t kRun = kShortRun * kLanes;
    for (; i + kRun <= whole; end_run()) {
        for (const std::int64_t end = i + kRun; i < end; i += kLanes) add(i, AllLanes{});
    }
    for (; i < whole; i += kLanes) add(i, AllLanes{});
    if (whole < n) add(whole, FirstLanes{static_cast<int>(n - whole)});
    end_run();
    for (int r = 0; r < kCount; ++r) {
        sums[r].finish(out.dz[r], out.dz_xmu[r]);
        if (sizeof(T) == 8 || sums_stand(out.dz[r], out.dz_xmu[r])) continue;
        ChannelSums<T> again;
        for_each_vector(n, 0, [&](std::int64_t k, auto lanes) __attribute__((always_inline)) {
            again.add(lanes.load(dy[r] + k) * lanes.load(along.gamma + k), affine[r].centre(lanes.load(x[r] + k)));
        });
        again.finish(out.dz[r], out.dz_xmu[r]);
    }
}

// The same for one channel of a call with an epilogue.
template <class S>
void sum_channel_in_stages(const BackwardTask& task, const Dropper<Compute<S>>& dropper, std::int64_t channel,
                           const BlockSpan& span, const ParameterSums& parameters, const BlockSums& out) {
    using T = Compute<S>;
    const GeneralLoop<T> loop(task.activation);
    const std::int64_t n = span.inner_end - span.inner_begin;
    const ParameterSums entries = from_entry(parameters, first_entry(task, channel, span));
    const auto run = open_inputs<S, true>(task, dropper.index, Position{0, channel, span.inner_begin});
    const Affine<T> affine = load_affine<T, false>(task.affine, channel);
    ChannelSums<T> sums;
    Stage<T> stage;
    const std::int64_t portion = portion_of<GeneralLoop<T>>(task.mask);
    for (std::int64_t begin = 0, count; begin < n; begin += count) {
        count = n - begin < portion ? n - begin : portion;
        if (dropper.used) dropper.prepare(run.mask + begin, count);
        for_each_vector(count, 0, [&](std::int64_t k, auto lanes) __attribute__((always_inline)) {
            put_on_stage<S>(loop, dropper, run, begin + k, lanes, affine, stage, k);
        });
        loop.backward(stage.z, stage.dz, count);
        for_each_vector(count, 0, [&](std::int64_t k, auto lanes) __attribute__((always_inline)) {
            const std::int64_t i = begin + k;
            const AtAffine<T> here = from_stage<S>(loop, run, i, lanes, affine, stage, k);
            // Lanes beyond the last element are staged, too.
            const Vec<T> dz = lanes.load(stage.dz + k);
            sums.add(dz * lanes.load(run.along.gamma + i), here.centred);
            const Vec<double> dbeta = lanes.load(entries.dbeta + i), dgamma = lanes.load(entries.dgamma + i);
            lanes.store(entries.dbeta + i, dbeta + widen(dz), false);
            lanes.store(entries.dgamma + i, add_product<T>(dgamma, dz, here.centred * affine.scale), false);
        });
    }
    sums.finish(out.dz[0], out.dz_xmu[0]);
}

template <class S>
void backward_sums_along(const BackwardTask& task, const BlockRange& range, const BlockSums& out,
                         const ParameterSums& parameters) noexcept {
    const bool plain = is_plain_identity(task);
    MaskWindow window(task.mask, task.geometry);
    const Dropper<Compute<S>> dropper(window, task.mask, task.geometry);
    for (std::int64_t b = range.block_begin; b < range.block_end; ++b) {
        const BlockSpan span = span_of(task.geometry, task.blocks, b);
        const std::int64_t row = (b - range.block_begin) * range.pitch - range.channel_begin;
        const auto own = [&](std::int64_t c) { return BlockSums{out.dz + row + c, out.dz_xmu + row + c}; };
        std::int64_t c = range.channel_begin;
        // Of channels whole pages apart, fewer at once: all have the same few places in the first cache. (Two and two
        // in the order of four: but for 16-bit tensors, whose sums of four are one number.)
        const bool by_twos = sizeof(S) > 2 && apart_by_pages<S>(task.x);
        for (; plain && task.along.period == 1 && by_twos && c + 2 <= range.channel_end; c += 2) {
            sum_channels_along<S, 2>(task, c, span, parameters, own(c));
        }
        for (; plain && task.along.period == 1 && c + kAlongTogether <= range.channel_end; c += kAlongTogether) {
            sum_channels_along<S, kAlongTogether>(task, c, span, parameters, own(c));
        }
        for (; c < range.channel_end; ++c) {
            if (plain) {
                sum_channels_along<S, 1>(task, c, span, parameters, own(c));
            } else {
                sum_channel_in_stages<S>(task, dropper, c, span, parameters, own(c));
            }
        }
    }
}

// --- dx ---------------------------------------------------------------------------------------------------------

template <class T>
BNFAST_INLINE BackwardCoefficients<T> coefficients_along(const BackwardTask& task, std::int64_t channel) {
    BackwardCoefficients<T> c;
    c.affine = load_affine<T, false>(known<true>(task.affine), channel);
    c.mean_dz = plane_coefficient<T>(task.gradient.mean_dz, channel);
    c.projection = plane_coefficient<T>(task.gradient.projection, channel);
    c.dx_scale = plane_coefficient<T>(task.gradient.dx_scale, channel);
    c.weight = Vec<T>(1);
    return c;
}

// kCount channels from `first` on of a call with nothing behind the norm; kDrops: with dropout before it.
template <class S, int kCount, bool kStreaming, bool kDrops>
void write_channels_along(const BackwardTask& task, const Dropper<Compute<S>>& before, std::int64_t first,
                          std::int64_t begin, std::int64_t n) {
    static_assert(!kDrops || kCount == 1, "bits are made for one channel at a time");
    using T = Compute<S>;
    const S *x[kCount], *dy[kCount], *dh[kCount];
    S *dx[kCount], *dresidual[kCount];
    BackwardCoefficients<T> coefficients[kCount];
    const bool has_dh = task.dh.is_there(), has_dresidual = task.dresidual.is_there();
    BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
        const Position p{0, first + r, begin};
        x[r] = at<S>(task.x, p);
        dy[r] = at<S>(task.dy, p);
        dh[r] = at_if_any<S>(task.dh, p);
        dx[r] = at<S>(task.dx, p);
        dresidual[r] = at_if_any<S>(task.dresidual, p);
        coefficients[r] = coefficients_along<T>(task, p.channel);
    }
    const AlongRun<T> along = open_along<T>(task.along, task.geometry, Position{0, first, begin});
    const std::int64_t mask = before.index.of(Position{0, first, begin});
    const std::int64_t head = kStreaming ? head_of(dx[0]) : 0;
    const auto write = [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
        const Vec<T> gamma = lanes.load(along.gamma + i);
        BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
            const BackwardCoefficients<T>& c = coefficients[r];
            const Vec<T> centred = c.affine.centre(lanes.load(x[r] + i));
            Vec<T> result =
                gradient_at_input(lanes.load(dy[r] + i) * gamma, centred, c.mean_dz, c.projection, c.dx_scale);
            if (has_dh) result = result + lanes.load(dh[r] + i);
            if constexpr (kDrops) {
                if (has_dresidual) lanes.store(dresidual[r] + i, result, false);
                result = before.drop(mask + i, result);
            }
            lanes.store(dx[r] + i, result, kStreaming);
        }
    };
    if constexpr (kDrops) {
        const std::int64_t portion = task.before.portion;
        for (std::int64_t start = 0, count; start < n; start += count) {
            const std::int64_t most = start < head ? head : portion;
            count = n - start < most ? n - start : most;
            before.prepare(mask + start, count);
            for_each_vector(count, 0, [&](std::int64_t k, auto lanes) __attribute__((always_inline)) {
                write(start + k, lanes);
            });
        }
    } else {
        for_each_vector(n, head, write);
    }
}

// Channels that are dense, without dropout before the norm, as one run.
template <class S>
void write_run_along(const BackwardTask& task, const Tile& tile) {
    using T = Compute<S>;
    struct Run {
        const S *x, *dy, *dh;
        S* dx;
    };
    const Geometry g = task.geometry;
    const AlongRun<T> along = open_along<T>(task.along, g, Position{0, tile.channel_begin, 0});
    for_each_in_dense_planes<S>(
        g, tile, 0, kEverything,
        [&](const Position& p) __attribute__((always_inline)) {
            return Run{at<S>(task.x, p), at<S>(task.dy, p), at_if_any<S>(task.dh, p), at<S>(task.dx, p)};
        },
        [](const Run& run) __attribute__((always_inline)) { return head_of(run.dx); },
        [&](std::int64_t c) __attribute__((always_inline)) {
            return InRun<BackwardCoefficients<T>>{coefficients_along<T>(task, c), (c - tile.channel_begin) * g.inner};
        },
        [&](const Run& run, std::int64_t, std::int64_t, auto walk) __attribute__((always_inline)) {
            walk([&](std::int64_t i, auto lanes, const InRun<BackwardCoefficients<T>>& in_run,
                     std::int64_t) __attribute__((always_inline)) {
                const BackwardCoefficients<T>& c = in_run.coefficients;
                const Vec<T> gamma = lanes.load(along.gamma + (i - in_run.begin));
                const Vec<T> centred = c.affine.centre(lanes.load(run.x + i));
                Vec<T> dx =
                    gradient_at_input(lanes.load(run.dy + i) * gamma, centred, c.mean_dz, c.projection, c.dx_scale);
                if (run.dh != nullptr) dx = dx + lanes.load(run.dh + i);
                lanes.store(run.dx + i, dx, true);
            });
        });
}

template <class S, bool kStreaming>
void write_tile_along(const BackwardTask& task, const Tile& tile) {
    const std::int64_t n = tile.inner_end - tile.inner_begin;
    MaskWindow window(task.before, task.geometry);
    const Dropper<Compute<S>> before(window, task.before, task.geometry);
    std::int64_t c = tile.channel_begin;
    if (!before.used && channels_go_together<S>(task.along, task.dx)) {
        for (; c + kAlongTogether <= tile.channel_end; c += kAlongTogether) {
            write_channels_along<S, kAlongTogether, kStreaming, false>(task, before, c, tile.inner_begin, n);
        }
    }
    for (; c < tile.channel_end; ++c) {
        before.used ? write_channels_along<S, 1, kStreaming, true>(task, before, c, tile.inner_begin, n)
                    : write_channels_along<S, 1, kStreaming, false>(task, before, c, tile.inner_begin, n);
    }
}
template <class S>
void write_tile_along(const BackwardTask& task, const Tile& tile) {
    const Geometry& g = task.geometry;
    if (task.streaming && task.along.period == 1 && !task.before.used && dense(task.x, g) && dense(task.dy, g) &&
        dense(task.dh, g) && goes_as_one_run<S>(g, task.dx, tile)) {
        return write_run_along<S>(task, tile);
    }
    task.streaming ? write_tile_along<S, true>(task, tile) : write_tile_along<S, false>(task, tile);
}

// --- both -------------------------------------------------------------------------------------------------------

constexpr Operand BackwardTask::* kBackwardOperands[] = {&BackwardTask::x,  &BackwardTask::residual,
                                                         &BackwardTask::dy, &BackwardTask::dh,
                                                         &BackwardTask::dx, &BackwardTask::dresidual};

template <class S>
void backward_along(const AlongBackwardTask& task, std::int64_t begin, std::int64_t end,
                    const ParameterSums& parameters) noexcept {
    using T = Compute<S>;
    constexpr std::int64_t kEntries = kAlongBatch + cpu::kPadding;
    AlongCoefficients<T> coefficients;
    T mean_dz[kEntries], projection[kEntries], dx_scale[kEntries];
    double dz[cpu::kMostAlongBlocks * kAlongBatch], dz_xmu[cpu::kMostAlongBlocks * kAlongBatch];
    const Geometry& g = task.backward.geometry;
    const std::int64_t blocks = task.backward.blocks.count, batch = along_batch<S>(g.inner, 2);
    BackwardTask part = task.backward;
    part.gradient.mean_dz = mean_dz;
    part.gradient.projection = projection;
    part.gradient.dx_scale = dx_scale;
    for (std::int64_t first = begin, count; first < end; first += count) {
        count = end - first < batch ? end - first : batch;
        for (Operand BackwardTask::* operand : kBackwardOperands) {
            const Operand& whole = task.backward.*operand;
            if (whole.is_there()) (part.*operand).data = at<S>(whole, 0, first);
        }
        part.along.first = task.backward.along.first + first;
        part.mask.first_channel = task.backward.mask.first_channel + first;
        part.before.first_channel = task.backward.before.first_channel + first;
        part.affine = coefficients.fill(task.statistics, first, count);
        part.affine.has_inverse = false;
        backward_sums_along<S>(part, {0, count, 0, blocks, count}, {dz, dz_xmu}, parameters);
        merge_sums({dz, dz_xmu}, blocks, count, count);
        cpu::GradientInputs inputs = task.gradient;
        inputs.count = inputs.total_count = task.statistics.count + first;
        inputs.m2 = task.statistics.m2 + first;
        inputs.invstd = task.statistics.invstd + first;
        inputs.gamma = coefficients.ones;
        inputs.sum_dz = dz;
        inputs.sum_dz_xmu = dz_xmu;
        fill_gradient_coefficients<T>(inputs, count, part.affine, part.gradient);
        write_tile<S>(part, {0, 1, 0, count, 0, g.inner});
    }
    if (task.backward.streaming) stream_fence();
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
