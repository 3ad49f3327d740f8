// A run of elements as vectors: 16 lanes at a time, and what is left at its ends.
#pragma once

#include "cpu/simd/storage.h"

namespace bnfast {
namespace BNFAST_TARGET {

// Where lanes come from and go to: whole vectors inside a run, the first few at its ends.

struct AllLanes {
    template <class S>
    BNFAST_INLINE Vec<Compute<S>> load(const S* p) const {
        return BNFAST_TARGET::load(p);
    }
    template <class S>
    BNFAST_INLINE void store(S* p, Vec<Compute<S>> v, bool streaming) const {
        if (streaming) {
            stream(p, v);
        } else {
            BNFAST_TARGET::store(p, v);
        }
    }
    // The lanes loaded as double straight from memory: cheaper than to widen a register.
    template <class S>
    BNFAST_INLINE Vec<double> load_wide(const S* p) const {
        if constexpr (sizeof(S) == 4) {
            return map_parts<double>(BNFAST_EACH {
                HalfPart half;
                __builtin_memcpy(&half, p + k * Vec<double>::kPartLanes, sizeof half);
                return widen_half(half);
            });
        } else {
#if defined(__AVX512F__)
            if constexpr (sizeof(S) == 2) {
                return map_parts<double>(BNFAST_EACH {
                    const void* half = p + k * Vec<double>::kPartLanes;
                    return widen_half(decode_half(_mm_loadu_si128(static_cast<const __m128i*>(half)), S{}));
                });
            }
#endif
            return widen(BNFAST_TARGET::load(p));
        }
    }
    BNFAST_INLINE Vec<double> keep_loaded(Vec<double> v) const { return v; }
};

struct FirstLanes {
    int count;
    template <class S>
    BNFAST_INLINE Vec<Compute<S>> load(const S* p) const {
        return load_first(p, count);
    }
    template <class S>
    BNFAST_INLINE void store(S* p, Vec<Compute<S>> v, bool) const {
        store_first(p, v, count);
    }
    template <class S>
    BNFAST_INLINE Vec<double> load_wide(const S* p) const {
        return widen(load_first(p, count));
    }
    // Zero in the lanes that were not loaded.
    BNFAST_INLINE Vec<double> keep_loaded(Vec<double> v) const {
        return select(first_lanes<double>(count), v, Vec<double>(0.0));
    }
};

// Calls body(i, lanes) for the vectors of a run of n elements, `head` of which come before the first whole vector. The
// incomplete vectors share one copy of the body (compile time), hence their loop.
template <class Body>
BNFAST_INLINE void for_each_vector(std::int64_t n, std::int64_t head, Body body) {
    if (head > n) head = n;
    const std::int64_t tail = head + (n - head) / kLanes * kLanes;
    for (std::int64_t i = head; i < tail; i += kLanes) body(i, AllLanes{});
    for (std::int64_t i = head > 0 ? 0 : tail; i < n; i = i < tail ? tail : n) {
        body(i, FirstLanes{static_cast<int>(i < tail ? head : n - i)});
    }
}

// The vectors of a run of n elements in short runs (numerics/sums.h): add(i, lanes, sums) adds one to Sums, which begin
// at zero, and flush(even, odd) takes those of each short run. The additions of even and odd vectors overlap.
template <class Sums, class Add, class Flush>
BNFAST_INLINE void for_each_short_run(std::int64_t n, Add add, Flush flush) {
    for (std::int64_t i = 0, end; i < n; i = end) {
        end = n - i < kShortRun * kLanes ? n : i + kShortRun * kLanes;
        Sums even, odd;
        for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
            add(i, AllLanes{}, even);
            add(i + kLanes, AllLanes{}, odd);
        }
        if (i + kLanes <= end) {
            add(i, AllLanes{}, even);
            if (i + kLanes < end) add(i + kLanes, FirstLanes{static_cast<int>(end - i) - kLanes}, odd);
        } else if (i < end) {
            add(i, FirstLanes{static_cast<int>(end - i)}, even);
        }
        flush(even, odd);
    }
}

// Elements before p reaches the alignment that stream() wants.
template <class S>
BNFAST_INLINE std::int64_t head_of(const S* p) {
    constexpr std::uintptr_t kAlign = kLanes * sizeof(S) < 64 ? kLanes * sizeof(S) : 64;
    const std::uintptr_t past = reinterpret_cast<std::uintptr_t>(p) % kAlign;
    return past == 0 ? 0 : static_cast<std::int64_t>((kAlign - past) / sizeof(S));
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
