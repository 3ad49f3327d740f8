// Philox for 16 counters at once, and the mask bits made from it: those of numerics/mask.h, 128 or 256 at a time.
#pragma once

#include "cpu/simd/storage.h"
#include "numerics/mask.h"

namespace bnfast {
namespace BNFAST_TARGET {

// Sixteen counters as 32-bit numbers in the low halves of 64-bit lanes, even counters and odd ones apart: the widening
// multiplication then needs no shuffles, and what it leaves in the high halves does no harm.
typedef std::uint64_t WidePart __attribute__((vector_size(kVectorBytes)));

BNFAST_INLINE WidePart multiply_low_halves(WidePart a, std::uint32_t factor) {
    const WidePart b = WidePart{} + factor;
#if defined(__AVX512F__)
    return reinterpret_cast<WidePart>(
        _mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
    return reinterpret_cast<WidePart>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
    return reinterpret_cast<WidePart>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
    return (a & 0xffffffffU) * b;
#endif
}

// The high halves of 64-bit lanes moved to the low ones. A shuffle, not a shift: shifts share the multiplier's port.
BNFAST_INLINE WidePart high_halves(WidePart a) {
#if defined(__AVX512F__)
    constexpr _MM_PERM_ENUM kHighTwice = _MM_PERM_DDBB;
    return reinterpret_cast<WidePart>(_mm512_maskz_shuffle_epi32(0xffff, reinterpret_cast<__m512i>(a), kHighTwice));
#elif defined(__AVX2__)
    return reinterpret_cast<WidePart>(_mm256_shuffle_epi32(reinterpret_cast<__m256i>(a), 0xf5));
#elif defined(__SSE2__)
    return reinterpret_cast<WidePart>(_mm_shuffle_epi32(reinterpret_cast<__m128i>(a), 0xf5));
#else
    return a >> 32;
#endif
}

// What all counters of a stream with the same high word share: the keys of the rounds, and the words of the first two
// rounds that do not depend on the counter's low word. In memory: broadcasting them from there costs no arithmetic.
struct PhiloxStream {
    std::uint64_t seed, offset;
    std::uint32_t counter_high;
    std::uint64_t k0[kPhiloxRounds], k1[kPhiloxRounds];
    std::uint64_t c2_of_round1, c0_of_round2, c2_of_round2, c3_of_round2;
    WordPart last_k0, last_k1;

    BNFAST_INLINE void start(std::uint64_t stream_seed, std::uint64_t stream_offset) {
        seed = stream_seed;
        offset = stream_offset;
        std::uint32_t a = static_cast<std::uint32_t>(seed), b = static_cast<std::uint32_t>(seed >> 32);
        for (int round = 0; round < kPhiloxRounds; ++round, a += kPhiloxWeyl0, b += kPhiloxWeyl1) {
            k0[round] = a;
            k1[round] = b;
        }
        last_k0 = WordPart{} + static_cast<std::uint32_t>(k0[kPhiloxRounds - 1]);
        last_k1 = WordPart{} + static_cast<std::uint32_t>(k1[kPhiloxRounds - 1]);
        set_counter_high(0);
    }

    BNFAST_INLINE void set_counter_high(std::uint32_t high) {
        counter_high = high;
        const std::uint32_t c2 = static_cast<std::uint32_t>(offset), c3 = static_cast<std::uint32_t>(offset >> 32);
        const std::uint64_t p1 = static_cast<std::uint64_t>(kPhiloxMultiplier1) * c2;
        const std::uint32_t c0 = static_cast<std::uint32_t>(p1 >> 32) ^ high ^ static_cast<std::uint32_t>(k0[0]);
        const std::uint64_t p0 = static_cast<std::uint64_t>(kPhiloxMultiplier0) * c0;
        c2_of_round1 = c3 ^ k1[0];
        c0_of_round2 = static_cast<std::uint32_t>(p1) ^ k0[1];
        c2_of_round2 = (p0 >> 32) ^ k1[1];
        c3_of_round2 = p0 & 0xffffffffU;
    }
};

BNFAST_INLINE WidePart xor3(WidePart a, WidePart b, WidePart c) {
#if defined(__AVX512F__)
    constexpr int kXor3 = 0x96;  // truth table
    return reinterpret_cast<WidePart>(_mm512_ternarylogic_epi64(reinterpret_cast<__m512i>(a),
                                                                reinterpret_cast<__m512i>(b),
                                                                reinterpret_cast<__m512i>(c), kXor3));
#else
    return a ^ b ^ c;
#endif
}

struct WideState {
    WidePart c[4];

    // The first two rounds, from the first product: that of the low word of the counter.
    BNFAST_INLINE void start(WidePart p0, const PhiloxStream& stream) {
        const WidePart round1 = high_halves(p0) ^ (WidePart{} + stream.c2_of_round1);
        c[1] = multiply_low_halves(round1, kPhiloxMultiplier1);
        c[0] = high_halves(c[1]) ^ (WidePart{} + stream.c0_of_round2);
        c[2] = p0 ^ (WidePart{} + stream.c2_of_round2);
        c[3] = WidePart{} + stream.c3_of_round2;
    }

    BNFAST_INLINE void mix(std::uint64_t k0, std::uint64_t k1) {
        const WidePart p0 = multiply_low_halves(c[0], kPhiloxMultiplier0);
        const WidePart p1 = multiply_low_halves(c[2], kPhiloxMultiplier1);
        c[0] = xor3(high_halves(p1), c[1], WidePart{} + k0);
        c[1] = p1;
        c[2] = xor3(high_halves(p0), c[3], WidePart{} + k1);
        c[3] = p0;
    }
};

// The low, or high, halves of 64-bit lanes of two states as the words of their counters, in order.
#if defined(__AVX512F__)
BNFAST_INLINE WordPart low_words(WidePart even, WidePart odd) {
    constexpr __mmask16 kOdd = 0xaaaa;
    return reinterpret_cast<WordPart>(_mm512_mask_shuffle_epi32(reinterpret_cast<__m512i>(even), kOdd,
                                                                reinterpret_cast<__m512i>(odd), _MM_PERM_CCAA));
}
BNFAST_INLINE WordPart high_words(WidePart even, WidePart odd) {
    constexpr __mmask16 kEven = 0x5555;
    return reinterpret_cast<WordPart>(_mm512_mask_shuffle_epi32(reinterpret_cast<__m512i>(odd), kEven,
                                                                reinterpret_cast<__m512i>(even), _MM_PERM_DDBB));
}
#else
BNFAST_INLINE WordPart low_words(WidePart even, WidePart odd) {
    return reinterpret_cast<WordPart>((even & 0xffffffffU) | (odd << 32));
}
BNFAST_INLINE WordPart high_words(WidePart even, WidePart odd) {
    return reinterpret_cast<WordPart>((even >> 32) | (odd & ~std::uint64_t{0xffffffffU}));
}
#endif
BNFAST_INLINE WordPart xor3(WordPart a, WordPart b, WordPart c) {
    return reinterpret_cast<WordPart>(
        xor3(reinterpret_cast<WidePart>(a), reinterpret_cast<WidePart>(b), reinterpret_cast<WidePart>(c)));
}

struct LastWords {
    WordPart word[4];
};
BNFAST_INLINE LastWords last_round(const WideState& even, const WideState& odd, const PhiloxStream& stream) {
    const WidePart even0 = multiply_low_halves(even.c[0], kPhiloxMultiplier0);
    const WidePart even1 = multiply_low_halves(even.c[2], kPhiloxMultiplier1);
    const WidePart odd0 = multiply_low_halves(odd.c[0], kPhiloxMultiplier0);
    const WidePart odd1 = multiply_low_halves(odd.c[2], kPhiloxMultiplier1);
    return {{xor3(high_words(even1, odd1), low_words(even.c[1], odd.c[1]), stream.last_k0), low_words(even1, odd1),
             xor3(high_words(even0, odd0), low_words(even.c[3], odd.c[3]), stream.last_k1), low_words(even0, odd0)}};
}

// Groups whose bits are made together: their rounds interleave, which hides the latency of the multiplier.
constexpr int kBatch = kVectorBytes == 64 ? 2 : 1;
constexpr std::int64_t kBatchElements = kBatch * kGroup;
constexpr std::int64_t kBatchWords = kBatchElements / 64;
constexpr int kWordLanes = kVectorBytes / 4;

#if defined(__AVX512F__)
// The mask bits of 16 low halves and, from bit 16 on, of as many high ones.
BNFAST_INLINE std::uint32_t kept_halves(WordPart word, std::uint32_t bound) {
    constexpr std::uint32_t kLowHalves = 0x55555555, kHighHalves = 0xaaaaaaaa;
    const std::uint32_t kept =
        _mm512_cmplt_epu16_mask(reinterpret_cast<__m512i>(word), _mm512_set1_epi16(static_cast<short>(bound)));
    return _pext_u32(kept, kLowHalves) | _pext_u32(kept, kHighHalves) << 16;
}
// Ties of random numbers with the bound: lanes are the least of their differences, and zero where there is a tie.
using Ties = __m512i;
BNFAST_INLINE Ties either(Ties a, Ties b) {
    constexpr std::uint32_t kAllLanes = 0xffffffffU;
    return _mm512_maskz_min_epu16(kAllLanes, a, b);
}
BNFAST_INLINE Ties ties_of(WordPart word, std::uint32_t bound) {
    return reinterpret_cast<__m512i>(word) ^ _mm512_set1_epi16(static_cast<short>(bound));
}
BNFAST_INLINE bool any(Ties ties) { return _mm512_testn_epi16_mask(ties, ties) != 0; }
#else
BNFAST_INLINE std::uint32_t sign_bits(WordPart mask) {
#if defined(__AVX__)
    return static_cast<std::uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
#elif defined(__SSE2__)
    return static_cast<std::uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(mask)));
#else
    std::uint32_t bits = 0;
    for (int lane = 0; lane < kWordLanes; ++lane) bits |= (mask[lane] >> 31) << lane;
    return bits;
#endif
}
// The mask bits of kWordLanes low halves and, from bit 16 on, of as many high ones.
BNFAST_INLINE std::uint32_t kept_halves(WordPart word, std::uint32_t bound) {
    const WordPart bounds = WordPart{} + (bound << 16);
    return sign_bits(reinterpret_cast<WordPart>((word << 16) < bounds)) |
           sign_bits(reinterpret_cast<WordPart>((word & 0xffff0000U) < bounds)) << 16;
}
// Ties of random numbers with the bound: all bits of a lane are set where there is one.
using Ties = WordPart;
BNFAST_INLINE Ties either(Ties a, Ties b) { return a | b; }
BNFAST_INLINE Ties ties_of(WordPart word, std::uint32_t bound) {
    const WordPart bounds = WordPart{} + bound;
    return reinterpret_cast<WordPart>((word & 0xffffU) == bounds) | reinterpret_cast<WordPart>((word >> 16) == bounds);
}
BNFAST_INLINE bool any(Ties ties) { return sign_bits(ties) != 0; }
#endif
BNFAST_INLINE Ties ties_of(const LastWords& last, std::uint32_t bound) {
    return either(either(ties_of(last.word[0], bound), ties_of(last.word[1], bound)),
                  either(ties_of(last.word[2], bound), ties_of(last.word[3], bound)));
}

// Decides the ties of a group by the second draw. Rare, hence out of line.
struct MaskGroup {
    std::uint64_t word[2];
};
__attribute__((noinline)) inline MaskGroup decide_ties(const DropoutMask& mask, std::uint64_t group, MaskGroup kept) {
    for (std::uint32_t l = 0; l < 16; ++l) {
        const PhiloxWords words = philox(16 * group + l, mask.offset, mask.seed);
        for (std::uint32_t k = 0; k < 8; ++k) {
            if (first_draw(words, k) != high_bits(mask)) continue;
            const std::uint64_t bit = wins_tie(mask, 128 * group + 16 * k + l) ? 1 : 0;
            const std::uint32_t shift = k % 4 * 16 + l;
            kept.word[k / 4] = (kept.word[k / 4] & ~(std::uint64_t{1} << shift)) | (bit << shift);
        }
    }
    return kept;
}

struct MaskBatch {
    MaskGroup group[kBatch];

    BNFAST_INLINE std::uint64_t word(int i) const { return group[i / 2].word[i % 2]; }
};

// What may be done between the rounds.
struct Nothing {
    BNFAST_INLINE void operator()(int) const {}
};
template <class Between>
struct IsNothing {
    static constexpr bool kValue = false;
};
template <>
struct IsNothing<Nothing> {
    static constexpr bool kValue = true;
};
constexpr int kBetween = 8;
static_assert(kPhiloxRounds == kBetween + 2, "one call after each round but the first two");

// The mask bits of groups `group` .. + kBatch - 1, bit 0 of word[0] of the first one first; group is a multiple of
// kBatch, 0 < keep < 2**48. Calls between(0) .. between(kBetween - 1) in the course of it: what is done there fills the
// time in which rounds wait for their products, even where the processor does not look far ahead.
template <class Between>
BNFAST_INLINE MaskBatch mask_batch(const DropoutMask& mask, PhiloxStream& stream, std::uint64_t group,
                                   Between between) {
    const std::uint32_t bound = high_bits(mask);
    // With no bits below those compared, a tie is dropped whatever the second draw.
    const bool ties_matter = static_cast<std::uint32_t>(mask.keep) != 0;
    const std::uint64_t first = 16 * group;
    if (__builtin_expect(first >> 32 != stream.counter_high, 0)) {
        stream.set_counter_high(static_cast<std::uint32_t>(first >> 32));
    }
    // Counters of a batch have the same high word, and so their first products differ by multiples of the factor.
    const std::uint64_t first_product = (first & 0xffffffffU) * kPhiloxMultiplier0;
    std::uint32_t words[kBatch][4] = {};
    bool tied[kBatch] = {};
    BNFAST_UNROLL for (int part = 0; part < 64 / kVectorBytes; ++part) {
        WideState even[kBatch], odd[kBatch];
        BNFAST_UNROLL for (int g = 0; g < kBatch; ++g) {
            WidePart product;  // of the counters' distances from the first
            BNFAST_UNROLL for (int j = 0; j < kVectorBytes / 8; ++j) {
                product[j] = static_cast<std::uint64_t>(16 * g + part * kWordLanes + 2 * j) * kPhiloxMultiplier0;
            }
            even[g].start(product + first_product, stream);
            odd[g].start(product + (first_product + kPhiloxMultiplier0), stream);
        }
        const auto mix = [&](int round) __attribute__((always_inline)) {
            BNFAST_UNROLL for (int g = 0; g < kBatch; ++g) {
                even[g].mix(stream.k0[round], stream.k1[round]);
                odd[g].mix(stream.k0[round], stream.k1[round]);
            }
        };
        if constexpr (IsNothing<Between>::kValue) {
            BNFAST_UNROLL for (int round = 2; round < kPhiloxRounds - 1; ++round) mix(round);
        } else {  // one copy of what is done between
            BNFAST_ROLL for (int round = 2; round < kPhiloxRounds - 1; ++round) {
                mix(round);
                if (part == 0) between(round - 2);
            }
        }
        LastWords last[kBatch];
        BNFAST_UNROLL for (int g = 0; g < kBatch; ++g) {
            last[g] = last_round(even[g], odd[g], stream);
            BNFAST_UNROLL for (int w = 0; w < 4; ++w) {
                words[g][w] |= kept_halves(last[g].word[w], bound) << (part * kWordLanes);
            }
        }
        if (part == 0) between(kBetween - 1);
        if (ties_matter) {
            Ties ties[kBatch];
            BNFAST_UNROLL for (int g = 0; g < kBatch; ++g) ties[g] = ties_of(last[g], bound);
            Ties all = ties[0];
            BNFAST_UNROLL for (int g = 1; g < kBatch; ++g) all = either(all, ties[g]);
            if (__builtin_expect(any(all), 0)) {
                BNFAST_UNROLL for (int g = 0; g < kBatch; ++g) tied[g] |= any(ties[g]);
            }
        }
    }
    MaskBatch kept;
    BNFAST_UNROLL for (int g = 0; g < kBatch; ++g) {
        kept.group[g] = {{words[g][0] | static_cast<std::uint64_t>(words[g][1]) << 32,
                          words[g][2] | static_cast<std::uint64_t>(words[g][3]) << 32}};
    }
    BNFAST_UNROLL for (int g = 0; g < kBatch; ++g) {
        if (__builtin_expect(tied[g], 0)) {
            kept.group[g] = decide_ties(mask, group + static_cast<std::uint64_t>(g), kept.group[g]);
        }
    }
    return kept;
}
BNFAST_INLINE MaskBatch mask_batch(const DropoutMask& mask, PhiloxStream& stream, std::uint64_t group) {
    return mask_batch(mask, stream, group, Nothing{});
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
