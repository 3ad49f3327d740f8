// The bits of a dropout mask, made in small portions just before their use and lined up for vectors: the integer work
// of Philox then runs while streamed stores and fetched lines are under way. None outlives the call.
#pragma once

#include "cpu/kernels/flat.h"
#include "cpu/simd/philox_batch.h"

namespace bnfast {
namespace BNFAST_TARGET {

constexpr std::int64_t kMostPrepared = 8192;
constexpr std::int64_t kMadePortion = kMostPrepared / 4;     // where bits are there already
constexpr std::int64_t kEverything = std::int64_t{1} << 62;  // one portion where there is no dropout

// The elements that a loop handles at once.
template <class Loop>
BNFAST_INLINE std::int64_t portion_of(const MaskTask& task) {
    static_assert(cpu::kMostAtOnce <= kStaged, "a portion of bits is a portion of the stages, too");
    if (Loop::drops(task.used) && !task.stored.complete) return task.portion;
    if (!Loop::kPlain) return kStaged;
    return Loop::drops(task.used) ? kMadePortion : kEverything;
}

// Where the elements of a task are in the mask. A value of its own: no store can be suspected of changing it.
struct MaskIndex {
    std::int64_t outer, channel, first;

    BNFAST_INLINE MaskIndex(const MaskTask& task, const Geometry& g)
        : outer(task.all_channels * (g.rows ? 1 : g.inner)),
          channel(g.rows ? 1 : g.inner),
          first(task.first_channel * channel) {}
    BNFAST_INLINE std::int64_t of(const Position& p) const {
        return p.outer * outer + p.channel * channel + first + p.i;
    }
};

// Rows of which each has its own batches of bits, and which store them: a batch is made once, in any order. (Tasks are
// then whole batches wide: take_stored_mask in cpu/mask_task.cpp.)
static_assert(kWholeBatches % kBatchElements == 0, "batches of no target may straddle two rows");
BNFAST_INLINE bool stores_row_batches(const MaskTask& task) {
    return task.stored.is_there() && task.stored.pitch == 0 && task.all_channels % kWholeBatches == 0;
}

// The bits of as many elements as Bits has, from element i of those lined up on; i is a multiple of that.
template <class Bits>
BNFAST_INLINE Bits mask_bits_at(const char* lined_up, std::int64_t i) {
    Bits bits;
    __builtin_memcpy(&bits, lined_up + (i >> 3), sizeof bits);
    return bits;
}

// The bits of a part of a mask, in a buffer or in the stored mask, and lined up for the vectors of a loop.
class MaskWindow {
  public:
    static constexpr int kSlots = 4;

    BNFAST_INLINE MaskWindow(const MaskTask& task, const Geometry& g)
        : task_(task),
          row_elements_(task.all_channels * g.inner),
          first_(task.first_channel * g.inner),
          width_(g.channels * g.inner) {
        if (task.used) stream_.start(task.dropout.seed, task.dropout.offset);
        if (task.stored.complete) {
            words_ = task.stored.words;
            end_ = std::int64_t{1} << 62;
        }
    }

    // For dropout alone, which stores no mask.
    BNFAST_INLINE explicit MaskWindow(const DropoutMask& mask) : task_{} {
        task_.dropout = mask;
        stream_.start(mask.seed, mask.offset);
    }

    // Makes the bits of n <= kMostPrepared elements from mask element `index` on, and lines them up for at(). Up to
    // kSlots such runs are at hand where stores_runs(), otherwise the one in slot 0.
    BNFAST_INLINE void prepare(std::int64_t index, std::int64_t n, int slot = 0) {
        if (index < begin_ || index + n > end_) make_until(index, n);
        lined_up_[slot].begin = index;
        lined_up_[slot].bits = line_up(index, n, lined_up_[slot].shifted);
    }
    // The same for the kBatchElements from `index` on, where those of as many elements before them were prepared last:
    // one batch is made, and `between`, which may read the bits of those, is called meanwhile.
    template <class Between>
    BNFAST_INLINE void prepare_next(std::int64_t index, Between between) {
        const MaskBatch batch = mask_batch(task_.dropout, stream_, static_cast<std::uint64_t>(end_ / kGroup), between);
        if (end_ - begin_ >= kMostPrepared) make_room(index);
        add(batch);
        lined_up_[0].begin = index;
        lined_up_[0].bits = line_up(index, kBatchElements, lined_up_[0].shifted);
    }
    // Whether the bits of each run of planes are stored, apart from those of the others.
    BNFAST_INLINE bool stores_runs() const { return task_.stored.is_there() && task_.stored.pitch != 0; }
    // The bits of the vector at a mask element that is whole vectors away from where those prepared last in the slot
    // begin: behind it, or before it where stores_row_batches(), whose bits need no lining up.
    BNFAST_INLINE std::uint32_t at(std::int64_t index, int slot = 0) const {
        return mask_bits_at<std::uint16_t>(lined_up_[slot].bits, index - lined_up_[slot].begin);
    }
    // The bits prepared last in slot 0, for mask_bits_at().
    BNFAST_INLINE const char* lined_up() const { return lined_up_[0].bits; }

  private:
    // Vectors begin anywhere in a word. Once a portion, not once a vector, its bits are shifted to where those of one
    // or two vectors are part of one word as it was stored, which the processor hands to a load while the store is
    // still under way. No word is read that has no bit of the portion: another thread may be writing it.
    struct LinedUp {
        std::int64_t begin = 0;  // the mask element of the first bit
        const char* bits = nullptr;
        std::uint64_t shifted[kMostPrepared / 64];
    };
    BNFAST_INLINE const char* line_up(std::int64_t index, std::int64_t n, std::uint64_t* shifted) const {
        const std::int64_t skip = index - begin_;
        if (skip % (2 * kLanes) == 0) return reinterpret_cast<const char*>(words_) + (skip >> 3);
        const std::uint64_t* const from = words_ + (skip >> 6);
        const std::int64_t shift = skip & 63;
        std::uint64_t word = from[0];
        std::int64_t k = 0;
        for (; 64 * (k + 1) <= n; ++k) {
            const std::uint64_t next = from[k + 1];
            shifted[k] = word >> shift | next << (64 - shift);
            word = next;
        }
        const std::int64_t rest = n - 64 * k;
        if (rest > 0) shifted[k] = word >> shift | (shift + rest > 64 ? from[k + 1] << (64 - shift) : 0);
        return reinterpret_cast<const char*>(shifted);
    }

    __attribute__((noinline)) void make_until(std::int64_t index, std::int64_t n) {
        std::uint64_t* row = nullptr;
        std::int64_t until = index + n;
        if (task_.stored.is_there() && task_.stored.pitch == 0) {
            if (index < begin_ || index > end_) begin_ = end_ = index / kBatchElements * kBatchElements;
            words_ = task_.stored.words + begin_ / 64;
        } else if (task_.stored.is_there()) {
            const std::int64_t outer = (index - first_) / row_elements_;
            row = task_.stored.words + outer * task_.stored.pitch;
            words_ = row + 1;
            begin_ = (outer * row_elements_ + first_) / kBatchElements * kBatchElements;
            end_ = row[0] == 0 ? begin_ : static_cast<std::int64_t>(row[0]);
            // At least a portion, though a short plane needs less: the rest is for the planes behind it.
            const std::int64_t run_end = outer * row_elements_ + first_ + width_;
            if (end_ < until) until = end_ + task_.portion < run_end ? end_ + task_.portion : run_end;
            if (until < index + n) until = index + n;
        } else if (index < begin_ || index > end_ || index + n > begin_ + kMostPrepared) {
            make_room(index);
        }
        while (end_ < until) {
            MaskBatch batch{};
            if (task_.dropout.keep >= kKeepAll) {
                __builtin_memset(&batch, 0xff, sizeof batch);
            } else if (task_.dropout.keep != 0) {
                batch = mask_batch(task_.dropout, stream_, static_cast<std::uint64_t>(end_ / kGroup));
            }
            add(batch);
        }
        // Unless all were there: in the second sweep, several threads may read it.
        if (row != nullptr && row[0] != static_cast<std::uint64_t>(end_)) row[0] = static_cast<std::uint64_t>(end_);
    }

    BNFAST_INLINE void add(const MaskBatch& batch) {
        std::uint64_t* const out = words_ + (end_ - begin_) / 64;
        BNFAST_UNROLL for (int i = 0; i < kBatchWords; ++i) out[i] = batch.word(i);
        end_ += kBatchElements;
    }
    // Begins the buffer with the batch of mask element `index`, and keeps what there is from there on.
    BNFAST_INLINE void make_room(std::int64_t index) {
        const std::int64_t begin = index / kBatchElements * kBatchElements;
        if (index < begin_ || index > end_) end_ = begin_ = begin;
        for (std::int64_t k = 0; k < (end_ - begin) / 64; ++k) words_[k] = words_[k + (begin - begin_) / 64];
        begin_ = begin;
    }

    MaskTask task_;
    std::int64_t row_elements_ = 0, first_ = 0, width_ = 0;
    std::int64_t begin_ = 0, end_ = 0;  // the mask elements whose bits are in words_
    PhiloxStream stream_;
    std::uint64_t buffer_[(kMostPrepared + 2 * kBatchElements) / 64 + 1];
    std::uint64_t* words_ = buffer_;
    LinedUp lined_up_[kSlots];
};

// Dropout of the vectors of one task.
template <class T>
struct Dropper {
    MaskWindow& window;
    const bool used;
    const MaskIndex index;
    const Vec<T> scale;

    BNFAST_INLINE Dropper(MaskWindow& mask_window, const MaskTask& task, const Geometry& g)
        : window(mask_window), used(task.used), index(task, g), scale(static_cast<T>(task.scale)) {}

    BNFAST_INLINE void prepare(std::int64_t mask_element, std::int64_t n, int slot = 0) const {
        window.prepare(mask_element, n, slot);
    }
    // y or dy after dropout: kept and scaled, or zero.
    BNFAST_INLINE Vec<T> drop(std::int64_t mask_element, Vec<T> v, int slot = 0) const {
        return select_bits(window.at(mask_element, slot), v * scale, Vec<T>(0));
    }
};

}  // namespace BNFAST_TARGET
}  // namespace bnfast
