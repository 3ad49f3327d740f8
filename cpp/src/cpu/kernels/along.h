// Sums of backward where parameters lie along the inner elements (layer norm): those of each channel, which its
// statistic's gradient needs, and those over channels for each parameter.
//
// Products of float32 are exact in float64. Deviations are centred as they are, since dgamma needs them; a channel's
// sums are of dz * gamma, rounded to the type computed in, as dx will have it.
#pragma once

#include "cpu/kernels/gradient.h"

namespace bnfast {
namespace BNFAST_TARGET {

// Sums of elements [begin, begin + n) of a channel's weighted dz, lane by lane.
struct ChannelSums {
    Vec<double> dz{0.0}, dz_xmu{0.0};
};

template <class T>
BNFAST_INLINE Vec<double> add_product(Vec<double> sum, Vec<T> a, Vec<T> b) {
    if constexpr (sizeof(T) == 8) {
        return sum + a * b;
    } else {
        return add_exact_product(sum, widen(a), widen(b));
    }
}

// Adds kCount channels from `first` on, over the inner elements of a block, to the sums of the parameters; their own
// sums go to `out`. Parameters are those of kCount channels alike if kCount is more than one.
template <class S, int kCount, class Loop>
void add_channels_along(const Loop& shared_loop, const BackwardTask& task, const Dropper<Compute<S>>& dropper,
                        std::int64_t first, const BlockSpan& span, const ParameterSums& parameters,
                        const BlockSums& out) {
    using T = Compute<S>;
    const Loop loop = shared_loop;
    const std::int64_t n = span.inner_end - span.inner_begin;
    const AffineArrays affine = known<Loop::kPlain>(task.affine);
    const std::int64_t entry = (task.along.first + first) % task.along.period * task.geometry.inner + span.inner_begin;
    double *const dgamma = parameters.dgamma + entry, *const dbeta = parameters.dbeta + entry;
    GradientRun<S, true> runs[kCount];
    Affine<T> affines[kCount];
    ChannelSums sums[kCount];
    BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
        runs[r] = open_inputs<S, true>(task, dropper.index, Position{0, first + r, span.inner_begin});
        affines[r] = load_affine<T, false>(affine, first + r);
    }
    // Adds one vector of all channels: at(r) is what channel r has there.
    const auto add = [&](std::int64_t i, auto lanes, auto at) __attribute__((always_inline)) {
        const Vec<T> gamma = lanes.load(runs[0].along.gamma + i);
        Vec<double> sum_gamma = lanes.load(dgamma + i), sum_beta = lanes.load(dbeta + i);
        BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
            const AtAffine<T> here = at(r);
            const Vec<T> weighted = here.dz * gamma;
            sums[r].dz = sums[r].dz + widen(weighted);
            sums[r].dz_xmu = add_product<T>(sums[r].dz_xmu, weighted, here.centred);
            sum_beta = sum_beta + widen(here.dz);
            sum_gamma = add_product<T>(sum_gamma, here.dz, here.centred * affines[r].scale);
        }
        lanes.store(dgamma + i, sum_gamma, false);
        lanes.store(dbeta + i, sum_beta, false);
    };
    if constexpr (Loop::kPlain) {
        for_each_vector(n, 0, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
            BNFAST_UNROLL for (int r = 0; r < kCount; ++r) {
                fetch(runs[r].x + i + kAlong<S>);
                fetch(runs[r].dy + i + kAlong<S>);
            }
            add(i, lanes, [&](int r) __attribute__((always_inline)) {
                return at_affine<S>(loop, dropper, runs[r], i, lanes, affines[r]);
            });
        });
    } else {
        static_assert(kCount == 1, "a stage is that of one channel");
        Stage<T> stage;
        const std::int64_t portion = portion_of<Loop>(task.mask);
        for (std::int64_t begin = 0, count; begin < n; begin += count) {
            count = n - begin < portion ? n - begin : portion;
            if (dropper.used) dropper.prepare(runs[0].mask + begin, count);
            for_each_vector(count, 0, [&](std::int64_t k, auto lanes) __attribute__((always_inline)) {
                put_on_stage<S>(loop, dropper, runs[0], begin + k, lanes, affines[0], stage, k);
            });
            loop.backward(stage.z, stage.dz, count);
            for_each_vector(count, 0, [&](std::int64_t k, auto lanes) __attribute__((always_inline)) {
                add(begin + k, lanes, [&](int) __attribute__((always_inline)) {
                    return from_stage<S>(loop, runs[0], begin + k, lanes, affines[0], stage, k);
                });
            });
        }
    }
    for (int r = 0; r < kCount; ++r) {
        out.dz[r] = sum_lanes(sums[r].dz);
        out.dz_xmu[r] = sum_lanes(sums[r].dz_xmu);
    }
}

template <class S>
void backward_sums_along(const BackwardTask& task, const BlockRange& range, const BlockSums& out,
                         const ParameterSums& parameters) noexcept {
    with_loop_along<Compute<S>>(task, [&](auto loop) __attribute__((always_inline)) {
        using Loop = decltype(loop);
        constexpr int kTogether = Loop::kPlain ? 4 : 1;  // for each load and store of the parameters' sums
        MaskWindow window(task.mask, task.geometry);
        const Dropper<Compute<S>> dropper(window, task.mask, task.geometry);
        for (std::int64_t b = range.block_begin; b < range.block_end; ++b) {
            const BlockSpan span = span_of(task.geometry, task.blocks, b);
            const std::int64_t row = (b - range.block_begin) * range.pitch - range.channel_begin;
            std::int64_t c = range.channel_begin;
            if (task.along.period == 1) {
                for (; c + kTogether <= range.channel_end; c += kTogether) {
                    add_channels_along<S, kTogether>(loop, task, dropper, c, span, parameters,
                                                     {out.dz + row + c, out.dz_xmu + row + c});
                }
            }
            for (; c < range.channel_end; ++c) {
                add_channels_along<S, 1>(loop, task, dropper, c, span, parameters,
                                         {out.dz + row + c, out.dz_xmu + row + c});
            }
        }
    });
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
