// Which elements a dropout mask keeps, where a thread needs to know it.
#pragma once

#include "cuda/kernels/walk.h"

namespace bnfast::cuda {

using numerics::kGroup;
constexpr int kOfGroup = 16;  // counters, each of which decides about eight elements

template <class Mask>
BNFAST_DEVICE_CALL bool wins_tie(const Mask& mask, std::uint64_t element) {
    return numerics::wins_tie(mask, element);
}
template <class Mask>
BNFAST_DEVICE_CALL bool is_kept(const Mask& mask, std::uint64_t element) {
    return numerics::is_kept(mask, element);
}

// The bits of the eight elements 128 g + 16 k + l that counter 16 g + l decides about: that of k is bit k.
BNFAST_DEVICE std::uint32_t bits_of_counter(const DropoutMask& mask, std::uint64_t counter) {
    const auto words = numerics::philox(counter, mask.offset, mask.seed);
    const std::uint32_t high = numerics::high_bits(mask);
    std::uint32_t bits = 0;
    for (std::uint32_t k = 0; k < 8; ++k) {
        const std::uint32_t u = numerics::first_draw(words, k);
        bool kept = u < high;
        if (u == high) kept = wins_tie(mask, counter / kOfGroup * kGroup + k * 16 + counter % kOfGroup);
        bits |= static_cast<std::uint32_t>(kept) << k;
    }
    return bits;
}
// The bytes that a warp makes for `length` elements of a mask, wherever they begin.
BNFAST_INLINE std::int64_t window_bytes(std::int64_t length) { return (length / kGroup + 2) * kOfGroup; }
// All threads of the warp make the bits of elements [begin, begin + length), which kept_in_window() then reads.
template <class Mask>
BNFAST_DEVICE_CALL void fill_window(const Mask& mask, std::int64_t begin, std::int64_t length, std::uint8_t* window) {
    const std::int64_t first = begin / kGroup * kOfGroup;
    const std::int64_t count = ((begin + length + kGroup - 1) / kGroup) * kOfGroup - first;
    warp_barrier();  // what was there has been read
    for (std::int64_t c = thread_index() % kWarp; c < count; c += kWarp) {
        window[c] = static_cast<std::uint8_t>(bits_of_counter(mask, static_cast<std::uint64_t>(first + c)));
    }
    warp_barrier();
}
// `past_group`: of the window's first element, where its group begins; `element` counts from that one.
BNFAST_DEVICE bool kept_in_window(const std::uint8_t* window, unsigned past_group, unsigned element) {
    constexpr unsigned kOf = kGroup, kCounters = kOfGroup;
    const unsigned i = past_group + element;
    return (window[i / kOf * kCounters + i % kCounters] >> (i / kCounters % 8)) & 1;
}

// What is the same for all elements of an item, but for their place in it.
struct OpenedMask {
    std::int64_t index = 0;  // in the mask, of the first element of the run, or where it goes along, of the item
    std::int64_t inner = 0;  // of the item in its run
    unsigned past_group = 0;
};
// Calls, as they are long, and seldom beside their work, or slow in any case.
template <class Task>
BNFAST_DEVICE_CALL OpenedMask open_mask(const Task& task, const Place& p, std::int64_t length, std::uint8_t* window) {
    OpenedMask opened{p.box * task.box + p.channel * task.channel + task.outer.at(p.outer), p.inner, 0};
    if (!task.along) return opened;
    opened.index += p.inner;
    opened.past_group = static_cast<unsigned>(opened.index % kGroup);
    if (task.window >= 0) fill_window(task.mask, opened.index, length, window);
    return opened;
}
template <class Task>
BNFAST_DEVICE_CALL bool is_kept_in_run(const Task& task, const OpenedMask& opened, std::int64_t i) {
    const std::int64_t index = task.along ? opened.index + i : opened.index + task.inner.at(opened.inner + i);
    return is_kept(task.mask, static_cast<std::uint64_t>(index));
}

// The mask of a walk's elements. Where elements of an item follow each other in the mask and a warp has it for itself,
// its threads share the numbers that decide: one Philox block serves eight elements (numerics/mask.h).
template <class W>
class Dropper {
    using T = typename W::T;

  public:
    BNFAST_DEVICE Dropper(const W& walk, const MaskTask& task)
        : walk_(walk), task_(task), scale_(static_cast<T>(task.scale)) {}

    BNFAST_DEVICE bool used() const { return !W::kPlain && task_.used; }
    BNFAST_DEVICE OpenedMask open(const Place& p) const {
        return used() ? open_mask(task_, p, walk_.work().piece, window()) : OpenedMask{};
    }
    // Whether element e of vector i of an item is kept.
    BNFAST_DEVICE bool kept(const OpenedMask& opened, std::int64_t i, int e) const {
        if constexpr (W::kRows) {
            return is_kept(task_.mask, static_cast<std::uint64_t>(opened.index + (i + e) * task_.channel));
        } else {
            if (task_.window < 0) return is_kept_in_run(task_, opened, i + e);
            return kept_in_window(window(), opened.past_group, static_cast<unsigned>(i + e));
        }
    }
    BNFAST_DEVICE T drop(const OpenedMask& opened, std::int64_t i, int e, T value) const {
        return kept(opened, i, e) ? value * scale_ : T(0);
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
