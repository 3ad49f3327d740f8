// y = kept ? x * scale (+ shift) : dropped. While one batch of elements is handled, the mask bits of the next are made.
#pragma once

#include "cpu/kernels/mask_window.h"

namespace bnfast {
namespace BNFAST_TARGET {

using cpu::DropoutRun;

enum class Scaling { kExact, kRounded, kShifted };  // exact: by a power of two that is at least 1

// What happens to one vector: a value type, so that the loop is compiled for each.
template <class T, Scaling kScaling>
struct Drop {
    Vec<T> scale, shift, dropped;

    explicit Drop(const DropoutRun& run)
        : scale(static_cast<T>(run.scale)), shift(static_cast<T>(run.shift)), dropped(static_cast<T>(run.dropped)) {}
    BNFAST_INLINE Vec<T> scaled(Vec<T> x) const {
        return kScaling == Scaling::kShifted ? x * scale + shift : x * scale;
    }
    BNFAST_INLINE Vec<T> apply(std::uint32_t kept, Vec<T> x) const { return select_bits(kept, scaled(x), dropped); }
};

// How many elements the inner loop handles at once, and how.
template <class S, class Stage>
struct Step {
    static constexpr std::int64_t kElements = kLanes;
    using Bits = std::uint16_t;
    explicit Step(const Stage&) {}
    BNFAST_INLINE void run(const Stage& stage, Bits kept, const S* x, S* y, bool streaming) const {
        AllLanes{}.store(y, stage.apply(kept, AllLanes{}.load(x)), streaming);
    }
};

#if defined(__AVX512F__)
// 32 bfloat16 at once. Those at even places are floats when shifted, those at odd places when the others are cleared:
// nothing is reordered. NaN needs no care in rounding: the 16 low bits of those that come from a bfloat16 are zero.
template <Scaling kScaling>
struct Step<BFloat16, Drop<float, kScaling>> {
    using Stage = Drop<float, kScaling>;
    static constexpr std::int64_t kElements = 2 * kLanes;
    using Bits = std::uint32_t;
    __m512i dropped;

    explicit Step(const Stage& stage) {
        BFloat16 bits[kLanes];
        BNFAST_TARGET::store(bits, stage.dropped);
        dropped = _mm512_set1_epi16(static_cast<short>(bits[0].bits));
    }
    static BNFAST_INLINE WordPart scaled(const Stage& stage, WordPart word) {
        Vec<float> x;
        x.part[0] = reinterpret_cast<Vec<float>::Part>(word);
        word = reinterpret_cast<WordPart>(stage.scaled(x).part[0]);
        return kScaling == Scaling::kExact ? word : word + 0x7fffU + ((word >> 16) & 1U);
    }
    BNFAST_INLINE void run(const Stage& stage, Bits kept, const BFloat16* x, BFloat16* y, bool streaming) const {
        WordPart raw;
        __builtin_memcpy(&raw, x, sizeof raw);
        const WordPart even = scaled(stage, raw << 16) >> 16, odd = scaled(stage, raw & 0xffff0000U);
        // Neither has bits where the other has: their sum is both, and takes the mask.
        const WordPart cut = kScaling == Scaling::kExact ? odd : odd & 0xffff0000U;
        const __m512i result =
            _mm512_mask_add_epi16(dropped, kept, reinterpret_cast<__m512i>(cut), reinterpret_cast<__m512i>(even));
        if (streaming) {
            stream_part(y, result);
        } else {
            __builtin_memcpy(y, &result, sizeof result);
        }
    }
};
#endif

// Elements before y reaches the alignment that the steps want.
template <class S, class Stage>
std::int64_t head_of_steps(const S* y) {
    constexpr std::uintptr_t kAlign = Step<S, Stage>::kElements * sizeof(S) < 64 ? kLanes * sizeof(S) : 64;
    const std::uintptr_t past = reinterpret_cast<std::uintptr_t>(y) % kAlign;
    return past == 0 ? 0 : static_cast<std::int64_t>((kAlign - past) / sizeof(S));
}

// The whole run by its mask; y[head] is the first element at the alignment that the steps want.
template <class S, class Stage>
void dropout_masked(const DropoutRun& run, const S* x, S* y, std::int64_t head, const Stage& stage) {
    constexpr std::int64_t kStep = Step<S, Stage>::kElements;
    constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(S));
    constexpr std::int64_t kAhead = kPrefetchBytes / static_cast<std::int64_t>(sizeof(S));
    using Bits = typename Step<S, Stage>::Bits;
    const Step<S, Stage> step(stage);
    const std::int64_t n = run.n, index = static_cast<std::int64_t>(run.index);
    const bool streaming = run.streaming;
    MaskWindow window(run.mask);
    // What the batches leave at both ends: whole steps up to `steps_end`, and then vectors.
    const auto edge = [&](std::int64_t begin, std::int64_t steps_end, std::int64_t end) {
        if (begin == end) return;
        window.prepare(index + begin, end - begin);
        const char* const bits = window.lined_up();
        std::int64_t i = begin;
        for (; i < steps_end; i += kStep) {
            step.run(stage, mask_bits_at<Bits>(bits, i - begin), x + i, y + i, streaming);
        }
        for_each_vector(end - i, 0, [&](std::int64_t k, auto lanes) __attribute__((always_inline)) {
            const std::uint32_t kept = mask_bits_at<std::uint16_t>(bits, i + k - begin);
            lanes.store(y + i + k, stage.apply(kept, lanes.load(x + i + k)), false);
        });
    };
    edge(0, 0, head);
    std::int64_t i = head;
    if (i + kBatchElements <= n) window.prepare(index + i, kBatchElements);
    for (; i + kBatchElements <= n; i += kBatchElements) {
        const char* const bits = window.lined_up();
        const auto apply = [&](int part) __attribute__((always_inline)) {
            constexpr std::int64_t kPart = kBatchElements / kBetween;
            static_assert(kPart % kStep == 0, "a part is whole steps");
            BNFAST_UNROLL for (std::int64_t k = part * kPart; k < (part + 1) * kPart;
                               k += kPart < kLine ? kPart : kLine) {
                fetch(x + i + k + kAhead);
            }
            BNFAST_UNROLL for (std::int64_t k = part * kPart; k < (part + 1) * kPart; k += kStep) {
                step.run(stage, mask_bits_at<Bits>(bits, k), x + i + k, y + i + k, streaming);
            }
        };
        if (i + 2 * kBatchElements <= n) {
            window.prepare_next(index + i + kBatchElements, apply);
        } else {
            BNFAST_UNROLL for (int part = 0; part < kBetween; ++part) apply(part);
        }
    }
    edge(i, i + (n - i) / kStep * kStep, n);
}

template <class S, class Stage>
void dropout_with(const DropoutRun& run, const Stage& stage) {
    const S* x = static_cast<const S*>(run.x);
    S* y = static_cast<S*>(run.y);
    if (run.constant || run.mask.keep == 0 || run.mask.keep >= kKeepAll) {
        // One bit for the whole run.
        const std::uint32_t kept = run.kept ? 0xffffU : 0U;
        const std::int64_t head = run.streaming ? head_of(y) : 0;
        for_each_vector(run.n, head, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
            lanes.store(y + i, stage.apply(kept, lanes.load(x + i)), run.streaming);
        });
    } else {
        const std::int64_t head = run.streaming ? head_of_steps<S, Stage>(y) : 0;
        dropout_masked(run, x, y, head < run.n ? head : run.n, stage);
    }
    if (run.streaming) stream_fence();
}

BNFAST_INLINE bool scales_exactly(double scale) {
    std::uint64_t bits;
    __builtin_memcpy(&bits, &scale, sizeof bits);
    constexpr std::uint64_t kFraction = (std::uint64_t{1} << 52) - 1;
    return scale >= 1.0 && (bits & kFraction) == 0;
}

template <class S>
void dropout(const DropoutRun& run) noexcept {
    using T = Compute<S>;
    if (run.shift != 0.0) {
        dropout_with<S>(run, Drop<T, Scaling::kShifted>(run));
    } else if (Step<S, Drop<T, Scaling::kExact>>::kElements > kLanes && scales_exactly(run.scale)) {
        dropout_with<S>(run, Drop<T, Scaling::kExact>(run));
    } else {
        dropout_with<S>(run, Drop<T, Scaling::kRounded>(run));
    }
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
