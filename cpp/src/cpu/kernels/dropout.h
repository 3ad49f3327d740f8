// y = keep ? x * scale (+ shift) : dropped. Bits are made a few groups ahead of their use: the integer work of Philox
// then runs while loads and stores wait for memory.
#pragma once

#include "cpu/kernels/span.h"
#include "math/philox.h"

namespace bnfast {
namespace BNFAST_TARGET {

using cpu::DropoutRun;

constexpr std::int64_t kWindow = 8192;  // elements whose bits are in the buffer at once
constexpr std::int64_t kAhead = 2 * kGroup;

template <class S, class Apply>
void dropout_window(const DropoutRun& run, const S* x, S* y, std::int64_t n, std::int64_t head, std::uint64_t index,
                    Apply apply) {
    std::uint8_t bits[kWindow / 8 + 4 * kGroupBytes];
    const std::uint64_t first_group = index / kGroup;
    const std::int64_t skip = static_cast<std::int64_t>(index % kGroup);
    const std::int64_t groups = (skip + n + kGroup - 1) / kGroup;
    std::int64_t made = 0;
    const PhiloxKeys keys(run.bits.seed);
    for_each_vector(n, head, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
        while (made < groups && made * kGroup < skip + i + kLanes + kAhead) {
            keep_bits_of_group(run.bits, keys, first_group + static_cast<std::uint64_t>(made),
                               bits + made * kGroupBytes);
            ++made;
        }
        const auto kept = lanes_of<Compute<S>>(bits_from(bits, skip + i));
        lanes.store(y + i, apply(kept, lanes.load(x + i)), run.streaming);
    });
}

template <class S, class Apply>
void dropout_with(const DropoutRun& run, Apply apply) {
    using T = Compute<S>;
    const S* x = static_cast<const S*>(run.x);
    S* y = static_cast<S*>(run.y);
    const std::int64_t head = run.streaming ? head_of(y) : 0;
    if (run.constant || run.bits.keep == 0 || run.bits.keep >= kKeepAll) {
        // One bit for the whole run.
        const Mask<T> kept = lanes_of<T>(run.kept ? 0xffffU : 0U);
        for_each_vector(run.n, head, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
            lanes.store(y + i, apply(kept, lanes.load(x + i)), run.streaming);
        });
    } else {
        for (std::int64_t begin = 0, end; begin < run.n; begin = end) {
            end = begin == 0 ? head + kWindow : begin + kWindow;
            if (end > run.n) end = run.n;
            dropout_window(run, x + begin, y + begin, end - begin, begin == 0 ? head : 0,
                           run.index + static_cast<std::uint64_t>(begin), apply);
        }
    }
    if (run.streaming) stream_fence();
}

template <class S>
void dropout(const DropoutRun& run) noexcept {
    using T = Compute<S>;
    const Vec<T> scale(static_cast<T>(run.scale)), shift(static_cast<T>(run.shift)),
        dropped(static_cast<T>(run.dropped));
    if (run.shift == 0.0) {
        dropout_with<S>(run, [=](Mask<T> kept, Vec<T> x)
                                 __attribute__((always_inline)) { return select(kept, x * scale, dropped); });
    } else {
        dropout_with<S>(run, [=](Mask<T> kept, Vec<T> x)
                                 __attribute__((always_inline)) { return select(kept, x * scale + shift, dropped); });
    }
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
