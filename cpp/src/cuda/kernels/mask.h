// Which elements a dropout mask keeps, where a thread needs to know it.
#pragma once

#include "cuda/kernels/walk.h"

namespace bnfast::cuda {

using numerics::kGroup;
constexpr int kOfGroup = 16;  // counters, each of which decides about eight elements

// The bits of the eight elements 128 g + 16 k + l that counter 16 g + l decides about: that of k is bit k.
BNFAST_DEVICE std::uint32_t bits_of_counter(const DropoutMask& mask, std::uint64_t counter) {
    const auto words = numerics::philox(counter, mask.offset, mask.seed);
    const std::uint32_t high = numerics::high_bits(mask);
    std::uint32_t bits = 0;
    for (std::uint32_t k = 0; k < 8; ++k) {
        const std::uint32_t u = numerics::first_draw(words, k);
        bool kept = u < high;
        if (u == high) kept = numerics::wins_tie(mask, counter / kOfGroup * kGroup + k * 16 + counter % kOfGroup);
        bits |= static_cast<std::uint32_t>(kept) << k;
    }
    return bits;
}
// The bytes that a warp makes for `length` elements of a mask, wherever they begin.
BNFAST_INLINE std::int64_t window_bytes(std::int64_t length) { return (length / kGroup + 2) * kOfGroup; }
// All threads of the warp make the bits of elements [begin, begin + length), which kept_in_window() then reads.
BNFAST_DEVICE void fill_window(const DropoutMask& mask, std::int64_t begin, std::int64_t length, std::uint8_t* window) {
    const std::int64_t first = begin / kGroup * kOfGroup;
    const std::int64_t count = ((begin + length + kGroup - 1) / kGroup) * kOfGroup - first;
    warp_barrier();  // what was there has been read
    for (std::int64_t c = thread_index() % kWarp; c < count; c += kWarp) {
        window[c] = static_cast<std::uint8_t>(bits_of_counter(mask, static_cast<std::uint64_t>(first + c)));
    }
    warp_barrier();
}
BNFAST_DEVICE bool kept_in_window(const std::uint8_t* window, std::int64_t begin, std::int64_t element) {
    const std::int64_t group = element / kGroup - begin / kGroup;
    return (window[group * kOfGroup + element % kOfGroup] >> (element / kOfGroup % 8)) & 1;
}

// The mask of a walk's elements. Where elements of an item follow each other in the mask and a warp has it for itself,
// its threads share the numbers that decide: one Philox block serves eight elements (numerics/mask.h).
template <class W>
class Dropper {
    using T = typename W::T;

  public:
    BNFAST_DEVICE Dropper(const W& walk, const MaskTask& task)
        : walk_(walk), task_(task), scale_(static_cast<T>(task.scale)) {}

    BNFAST_DEVICE bool used() const { return task_.used; }
    // The element of the mask that belongs to the first one of an item, but for what is inside of the run.
    BNFAST_DEVICE std::int64_t open(const Place& p) const {
        if (!task_.used) return 0;
        std::int64_t index = p.box * task_.box + p.channel * task_.channel + task_.outer.at(p.outer);
        if (!task_.along) return index;
        index += p.inner;
        if (task_.window >= 0) fill_window(task_.mask, index, walk_.work().piece, window());
        return index;
    }
    // Element e of the vector at place.inner + i.
    BNFAST_DEVICE bool kept(std::int64_t opened, const Place& p, std::int64_t i, int e) const {
        if (task_.window >= 0) return kept_in_window(window(), opened, opened + i + e);
        std::int64_t index;
        if constexpr (W::kRows) {
            index = opened + (i + e) * task_.channel;
        } else {
            index = task_.along ? opened + i + e : opened + task_.inner.at(p.inner + i + e);
        }
        return numerics::is_kept(task_.mask, static_cast<std::uint64_t>(index));
    }
    BNFAST_DEVICE T drop(std::int64_t opened, const Place& p, std::int64_t i, int e, T value) const {
        return kept(opened, p, i, e) ? value * scale_ : T(0);
    }

  private:
    BNFAST_DEVICE std::uint8_t* window() const {
        char* const of_block = shared_memory() + task_.window;
        return reinterpret_cast<std::uint8_t*>(of_block) + thread_index() / kWarp * task_.window_bytes;
    }

    const W& walk_;
    const MaskTask& task_;
    T scale_;
};

}  // namespace bnfast::cuda
