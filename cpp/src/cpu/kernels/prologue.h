// h = residual + dropout(x), what a Transformer's block computes before the norm: one read of each, one write.
#pragma once

#include "cpu/kernels/mask_window.h"

namespace bnfast {
namespace BNFAST_TARGET {

using cpu::PrologueTask;

// A part of one channel, or of several that touch.
template <class S>
BNFAST_INLINE void prologue_of_run(const PrologueTask& task, MaskWindow& window, const S* x, const S* residual, S* h,
                                   std::int64_t index, std::int64_t length) {
    using T = Compute<S>;
    const bool drops = task.drops, has_residual = residual != nullptr;
    const Vec<T> scale(static_cast<T>(task.scale));
    const std::int64_t portion = drops ? cpu::kMostAtOnce / 2 : kEverything;
    for (std::int64_t begin = 0, n; begin < length; begin += n) {
        n = length - begin < portion ? length - begin : portion;
        if (drops) window.prepare(index + begin, n);
        for_each_vector(n, 0, [&](std::int64_t k, auto lanes) __attribute__((always_inline)) {
            const std::int64_t i = begin + k;
            fetch(x + i + kAlong<S>);
            Vec<T> v = lanes.load(x + i);
            if (drops) v = select_bits(window.at(index + i), v * scale, Vec<T>(0));
            if (has_residual) {
                fetch(residual + i + kAlong<S>);
                v = v + lanes.load(residual + i);
            }
            lanes.store(h + i, v, false);
        });
    }
}

template <class S>
void prologue(const PrologueTask& task, const Geometry& g, const Tile& tile) noexcept {
    const auto touches = [&](const Operand& operand) {
        return !operand.is_there() || operand.channel_stride == g.inner;
    };
    const bool whole = tile.inner_begin == 0 && tile.inner_end == g.inner;
    const bool one_run = whole && touches(task.x) && touches(task.residual) && touches(task.h);
    const std::int64_t channels = tile.channel_end - tile.channel_begin;
    const std::int64_t length = (one_run ? channels : 1) * (tile.inner_end - tile.inner_begin);
    MaskWindow window(task.mask);
    for (std::int64_t c = tile.channel_begin; c < (one_run ? tile.channel_begin + 1 : tile.channel_end); ++c) {
        const Position p{0, c, tile.inner_begin};
        prologue_of_run<S>(task, window, at<S>(task.x, p), at_if_any<S>(task.residual, p), at<S>(task.h, p),
                           (task.first_channel + c) * g.inner + tile.inner_begin, length);
    }
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
