// y = keep ? x * scale (+ shift) : dropped. Bits are made a few groups ahead of their use: the integer work of Philox
// then runs while loads and stores wait for memory.
#pragma once

#include "cpu/kernels/span.h"
#include "cpu/simd/philox_batch.h"

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

// The bits of a window, made batch by batch. Elements are counted from the first of the steps, wherever in a batch it
// lies, and so are bits: those of a step are then part of one word as it was stored, which the processor hands to a
// load while the store is still under way. The elements of the head, before it, have negative numbers.
class RunMaskWindow {
  public:
    // For n elements from mask element `index` on, of which `head` are the head.
    BNFAST_INLINE RunMaskWindow(const DropoutRun& run, PhiloxStream& stream, std::uint64_t index, std::int64_t n,
                                std::int64_t head)
        : mask_(run.mask),
          stream_(stream),
          first_group_(index / kBatchElements * kBatch),
          skip_(static_cast<std::int64_t>(index % kBatchElements) + head),
          shift_(skip_ % 64),
          batches_((skip_ - head + n + kBatchElements - 1) / kBatchElements),
          words_(buffer_ + kBefore - skip_ / 64) {}
    RunMaskWindow(const RunMaskWindow&) = delete;
    RunMaskWindow& operator=(const RunMaskWindow&) = delete;

    BNFAST_INLINE bool complete() const { return made_ == batches_; }
    // Makes one batch more, and calls `between` meanwhile.
    template <class Between>
    BNFAST_INLINE void make(Between between) {
        const MaskBatch batch =
            mask_batch(mask_, stream_, first_group_ + static_cast<std::uint64_t>(made_ * kBatch), between);
        std::uint64_t* const words = words_ + made_ * kBatchWords;
        std::uint64_t last = last_;
        BNFAST_UNROLL for (int i = 0; i < kBatchWords; ++i) {
            words[i - 1] = last >> shift_ | batch.word(i) << 1 << (63 - shift_);
            last = batch.word(i);
        }
        words[kBatchWords - 1] = last >> shift_;
        last_ = last;
        ++made_;
    }
    // All that the elements before `end` need.
    BNFAST_INLINE void make_until(std::int64_t end) {
        while (!complete() && made_ * kBatchElements < skip_ + end) make(Nothing{});
    }
    // The bits of elements i, i + 1, ..: as many as Bits has; i is a multiple of that.
    template <class Bits>
    BNFAST_INLINE Bits at(std::int64_t i) const {
        Bits bits;
        __builtin_memcpy(&bits, reinterpret_cast<const char*>(buffer_ + kBefore) + i / 8, sizeof bits);
        return bits;
    }
    // The 16 bits from any element on, of the head, too.
    BNFAST_INLINE std::uint32_t from(std::int64_t i) const {
        return bits_from(reinterpret_cast<const std::uint8_t*>(buffer_), 64 * kBefore + i);
    }

  private:
    static constexpr std::int64_t kBefore = kBatchWords + 1;  // words before element 0: a batch, and a head

    const DropoutMask mask_;
    PhiloxStream& stream_;
    const std::uint64_t first_group_;
    const std::int64_t skip_, shift_, batches_;
    std::int64_t made_ = 0;
    std::uint64_t last_ = 0;  // of the words made
    std::uint64_t buffer_[kBefore + kWindow / 64 + 2 * kBatchWords];
    std::uint64_t* const words_;  // where word 0 of the first batch would lie if bits were not shifted
};

// How many elements the inner loop handles at once, and how.
template <class S, class Stage>
struct Step {
    static constexpr std::int64_t kElements = kLanes;
    explicit Step(const Stage&) {}
    BNFAST_INLINE void run(const Stage& stage, const RunMaskWindow& bits, std::int64_t i, const S* x, S* y,
                           bool streaming) const {
        AllLanes{}.store(y, stage.apply(bits.at<std::uint16_t>(i), AllLanes{}.load(x)), streaming);
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
    BNFAST_INLINE void run(const Stage& stage, const RunMaskWindow& bits, std::int64_t i, const BFloat16* x,
                           BFloat16* y, bool streaming) const {
        WordPart raw;
        __builtin_memcpy(&raw, x, sizeof raw);
        const WordPart even = scaled(stage, raw << 16) >> 16, odd = scaled(stage, raw & 0xffff0000U);
        // Neither has bits where the other has: their sum is both, and takes the mask.
        const WordPart cut = kScaling == Scaling::kExact ? odd : odd & 0xffff0000U;
        const __m512i result = _mm512_mask_add_epi16(dropped, bits.at<std::uint32_t>(i), reinterpret_cast<__m512i>(cut),
                                                     reinterpret_cast<__m512i>(even));
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

// y[0, n), of which y[head] is the first at the alignment that the steps want.
template <class S, class Stage>
void dropout_window(const DropoutRun& run, PhiloxStream& stream, const S* x, S* y, std::int64_t n, std::int64_t head,
                    std::uint64_t index, const Stage& stage) {
    constexpr std::int64_t kStep = Step<S, Stage>::kElements;
    constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(S));
    constexpr std::int64_t kAhead = kPrefetchBytes / static_cast<std::int64_t>(sizeof(S));
    RunMaskWindow kept(run, stream, index, n, head);
    const Step<S, Stage> step(stage);
    // What the steps leave at both ends, by vectors and then by lanes.
    const auto edge = [&](std::int64_t begin, std::int64_t end) {
        for (; begin + kLanes <= end; begin += kLanes) {
            store(y + begin, stage.apply(kept.from(begin), load(x + begin)));
        }
        if (begin == end) return;
        const int count = static_cast<int>(end - begin);
        store_first(y + begin, stage.apply(kept.from(begin), load_first(x + begin, count)), count);
    };
    x += head;
    y += head;
    n -= head;
    kept.make_until(n < kBatchElements ? n : kBatchElements);
    edge(-head, 0);
    std::int64_t i = 0;
    for (; i + kBatchElements <= n; i += kBatchElements) {
        const auto apply = [&](int part) __attribute__((always_inline)) {
            constexpr std::int64_t kPart = kBatchElements / kBetween;
            static_assert(kPart % kStep == 0, "a part is whole steps");
            BNFAST_UNROLL for (std::int64_t k = part * kPart; k < (part + 1) * kPart;
                               k += kPart < kLine ? kPart : kLine) {
                fetch(x + i + k + kAhead);
            }
            BNFAST_UNROLL for (std::int64_t k = part * kPart; k < (part + 1) * kPart; k += kStep) {
                step.run(stage, kept, i + k, x + i + k, y + i + k, run.streaming);
            }
        };
        if (kept.complete()) {
            BNFAST_UNROLL for (int part = 0; part < kBetween; ++part) apply(part);
        } else {
            kept.make(apply);  // the next batch is in the making while this one is applied
        }
    }
    kept.make_until(n);
    for (; i + kStep <= n; i += kStep) step.run(stage, kept, i, x + i, y + i, run.streaming);
    edge(i, n);
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
        std::int64_t head = run.streaming ? head_of_steps<S, Stage>(y) : 0;
        if (head > run.n) head = run.n;
        PhiloxStream stream;
        stream.start(run.mask.seed, run.mask.offset);
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
