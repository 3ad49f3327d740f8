// h = residual + dropout(x), what a Transformer's block computes before the norm: one read of each, one write.
#pragma once

#include "cpu/kernels/mask_window.h"

namespace bnfast {
namespace BNFAST_TARGET {

template <class S>
void prologue(const PrologueRun& run) noexcept {
    using T = Compute<S>;
    const S *const x = static_cast<const S*>(run.x), *const residual = static_cast<const S*>(run.residual);
    S* const h = static_cast<S*>(run.h);
    const bool drops = run.drops, has_residual = run.has_residual;
    const Vec<T> scale(static_cast<T>(run.scale));
    MaskWindow window(run.mask);
    const std::int64_t portion = drops ? cpu::kMostAtOnce / 2 : kEverything;
    for (std::int64_t begin = 0, n; begin < run.n; begin += n) {
        n = run.n - begin < portion ? run.n - begin : portion;
        if (drops) window.prepare(run.index + begin, n);
        for_each_vector(n, 0, [&](std::int64_t k, auto lanes) __attribute__((always_inline)) {
            const std::int64_t i = begin + k;
            fetch(x + i + kAlong<S>);
            Vec<T> v = lanes.load(x + i);
            if (drops) v = select_bits(window.at(run.index + i), v * scale, Vec<T>(0));
            if (has_residual) {
                fetch(residual + i + kAlong<S>);
                v = v + lanes.load(residual + i);
            }
            lanes.store(h + i, v, false);
        });
    }
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
