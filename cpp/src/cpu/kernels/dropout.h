// y = keep ? x * scale (+ shift) : dropped. Bits are made a few groups ahead of their use: the integer work of Philox
// then runs while loads and stores wait for memory.
#pragma once

#include "cpu/kernels/span.h"
#include "math/philox.h"

namespace bnfast {
namespace BNFAST_TARGET {

using cpu::DropoutRun;

constexpr std::int64_t kWindow = 16384;  // elements whose bits are in the buffer at once

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
    explicit Step(const Stage&) {}
    BNFAST_INLINE void run(const Stage& stage, const std::uint64_t* bits, std::int64_t bit, const S* x, S* y,
                           bool streaming) const {
        const std::uint32_t kept =
            static_cast<std::uint32_t>(bits_from(reinterpret_cast<const std::uint8_t*>(bits), bit));
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
    BNFAST_INLINE void run(const Stage& stage, const std::uint64_t* bits, std::int64_t bit, const BFloat16* x,
                           BFloat16* y, bool streaming) const {
        WordPart raw;
        __builtin_memcpy(&raw, x, sizeof raw);
        std::uint64_t kept;
        __builtin_memcpy(&kept, reinterpret_cast<const std::uint8_t*>(bits) + (bit >> 3), sizeof kept);
        const WordPart even = scaled(stage, raw << 16) >> 16, odd = scaled(stage, raw & 0xffff0000U);
        const __m512i both = reinterpret_cast<__m512i>((odd & 0xffff0000U) | even);
        const __m512i result = _mm512_mask_mov_epi16(dropped, static_cast<__mmask32>(kept >> (bit & 7)), both);
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

// The bits of a window, made batch by batch.
struct KeptBits {
    const DropoutRun& run;
    PhiloxStream& stream;
    std::uint64_t first_group;
    std::int64_t skip, batches, made = 0;
    std::uint64_t bits[kWindow / 64 + 3 * kBatchWords];

    BNFAST_INLINE KeptBits(const DropoutRun& whole, PhiloxStream& philox, std::uint64_t index, std::int64_t n)
        : run(whole),
          stream(philox),
          first_group(index / kBatchElements * kBatch),
          skip(static_cast<std::int64_t>(index % kBatchElements)),
          batches((skip + n + kBatchElements - 1) / kBatchElements) {}
    // All that the elements before `end` need.
    BNFAST_INLINE void make_until(std::int64_t end) {
        while (made * kBatchElements < skip + end && made < batches) {
            const std::uint64_t group = first_group + static_cast<std::uint64_t>(made * kBatch);
            keep_bits_of_batch(run.bits, stream, group, bits + made * kBatchWords);
            ++made;
        }
    }
    BNFAST_INLINE std::uint32_t at(std::int64_t i) const {
        return bits_from(reinterpret_cast<const std::uint8_t*>(bits), skip + i);
    }
};

// y[0, n), of which y[head] is the first at the alignment that the steps want.
template <class S, class Stage>
void dropout_window(const DropoutRun& run, PhiloxStream& stream, const S* x, S* y, std::int64_t n, std::int64_t head,
                    std::uint64_t index, const Stage& stage) {
    constexpr std::int64_t kStep = Step<S, Stage>::kElements;
    constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(S));
    constexpr std::int64_t kAhead = kPrefetchBytes / static_cast<std::int64_t>(sizeof(S));
    KeptBits kept(run, stream, index, n);
    const Step<S, Stage> step(stage);
    // What the steps leave at both ends, by vectors and then by lanes.
    const auto edge = [&](std::int64_t begin, std::int64_t end) {
        for (; begin + kLanes <= end; begin += kLanes) {
            store(y + begin, stage.apply(kept.at(begin), load(x + begin)));
        }
        if (begin == end) return;
        const int count = static_cast<int>(end - begin);
        store_first(y + begin, stage.apply(kept.at(begin), load_first(x + begin, count)), count);
    };
    kept.make_until(head);
    edge(0, head);
    std::int64_t i = head;
    for (; i + kBatchElements <= n; i += kBatchElements) {
        // One batch ahead of the need: the next one is in the making while this one is applied.
        kept.make_until(i + 2 * kBatchElements);
        BNFAST_UNROLL for (std::int64_t k = 0; k < kBatchElements; k += kLine) __builtin_prefetch(x + i + k + kAhead);
        BNFAST_UNROLL for (std::int64_t k = 0; k < kBatchElements; k += kStep) {
            step.run(stage, kept.bits, kept.skip + i + k, x + i + k, y + i + k, run.streaming);
        }
    }
    kept.make_until(n);
    for (; i + kStep <= n; i += kStep) step.run(stage, kept.bits, kept.skip + i, x + i, y + i, run.streaming);
    edge(i, n);
}

template <class S, class Stage>
void dropout_with(const DropoutRun& run, const Stage& stage) {
    const S* x = static_cast<const S*>(run.x);
    S* y = static_cast<S*>(run.y);
    if (run.constant || run.bits.keep == 0 || run.bits.keep >= kKeepAll) {
        // One bit for the whole run.
        const std::uint32_t kept = run.kept ? 0xffffU : 0U;
        const std::int64_t head = run.streaming ? head_of(y) : 0;
        for_each_vector(run.n, head, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
            lanes.store(y + i, stage.apply(kept, lanes.load(x + i)), run.streaming);
        });
    } else {
        std::int64_t head = run.streaming ? head_of_steps<S, Stage>(y) : 0;
        if (head > run.n) head = run.n;
        PhiloxStream stream;
        stream.start(run.bits.seed, run.bits.offset);
        for (std::int64_t begin = 0, end; begin < run.n; begin = end) {
            end = begin == 0 ? head + kWindow : begin + kWindow;
            if (end > run.n) end = run.n;
            dropout_window(run, stream, x + begin, y + begin, end - begin, begin == 0 ? head : 0,
                           run.index + static_cast<std::uint64_t>(begin), stage);
        }
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
