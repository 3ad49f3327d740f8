// Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011) for 16 counters at once, and the keep bits of dropout made from it.
//
// Element i of a mask is i = 128 g + 16 k + l with k < 8, l < 16. The counter 16 g + l gives four words; the low half
// of word k / 2 (k even) or its high half (k odd) is u, which is compared with the 16 high bits of the keep threshold K
// (48 bits). On the tie, one element in 65,536, another draw v decides by the 32 low bits.
#pragma once

#include "math/dropout_bits.h"
#include "math/storage.h"

namespace bnfast {
namespace BNFAST_TARGET {

constexpr std::uint32_t kPhiloxMultiplier0 = 0xD2511F53U, kPhiloxMultiplier1 = 0xCD9E8D57U;
constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9U, kPhiloxWeyl1 = 0xBB67AE85U;
constexpr int kPhiloxRounds = 10;
constexpr std::int64_t kGroup = 128;  // elements whose bits are made together
constexpr std::int64_t kGroupBytes = kGroup / 8;

struct PhiloxWords {
    std::uint32_t word[4];
};

BNFAST_INLINE PhiloxWords philox(std::uint64_t counter, std::uint64_t offset, std::uint64_t seed) {
    std::uint32_t c0 = static_cast<std::uint32_t>(counter), c1 = static_cast<std::uint32_t>(counter >> 32);
    std::uint32_t c2 = static_cast<std::uint32_t>(offset), c3 = static_cast<std::uint32_t>(offset >> 32);
    std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
        const std::uint64_t p0 = static_cast<std::uint64_t>(kPhiloxMultiplier0) * c0;
        const std::uint64_t p1 = static_cast<std::uint64_t>(kPhiloxMultiplier1) * c2;
        c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<std::uint32_t>(p1);
        c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<std::uint32_t>(p0);
        k0 += kPhiloxWeyl0;
        k1 += kPhiloxWeyl1;
    }
    return {{c0, c1, c2, c3}};
}

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

    BNFAST_INLINE void start(std::uint64_t stream_seed, std::uint64_t stream_offset) {
        seed = stream_seed;
        offset = stream_offset;
        std::uint32_t a = static_cast<std::uint32_t>(seed), b = static_cast<std::uint32_t>(seed >> 32);
        for (int round = 0; round < kPhiloxRounds; ++round, a += kPhiloxWeyl0, b += kPhiloxWeyl1) {
            k0[round] = a;
            k1[round] = b;
        }
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

    // The first two rounds, from the low word of the counter.
    BNFAST_INLINE void start(WidePart counter, const PhiloxStream& stream) {
        const WidePart p0 = multiply_low_halves(counter, kPhiloxMultiplier0);
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

// One bit a 32-bit lane: whether it is below the bound (unsigned), or equal to it.
constexpr int kWordLanes = kVectorBytes / 4;
BNFAST_INLINE std::uint32_t sign_bits(WordPart mask) {
#if defined(__AVX512F__)
    return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
#elif defined(__AVX__)
    return static_cast<std::uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
#elif defined(__SSE2__)
    return static_cast<std::uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(mask)));
#else
    std::uint32_t bits = 0;
    for (int lane = 0; lane < kWordLanes; ++lane) bits |= (mask[lane] >> 31) << lane;
    return bits;
#endif
}
BNFAST_INLINE std::uint32_t lanes_below(WordPart a, std::uint32_t bound) {
#if defined(__AVX512F__)
    return _mm512_cmplt_epu32_mask(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(WordPart{} + bound));
#else
    return sign_bits(reinterpret_cast<WordPart>(a < (WordPart{} + bound)));
#endif
}
BNFAST_INLINE std::uint32_t lanes_equal(WordPart a, std::uint32_t bound) {
#if defined(__AVX512F__)
    return _mm512_cmpeq_epi32_mask(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(WordPart{} + bound));
#else
    return sign_bits(reinterpret_cast<WordPart>(a == (WordPart{} + bound)));
#endif
}

// Lanes of 32 bits, the even ones from the low halves of `even`, the odd ones from those of `odd`.
BNFAST_INLINE WordPart interleave_low_halves(WidePart even, WidePart odd) {
#if defined(__AVX512F__)
    constexpr _MM_PERM_ENUM kLowTwice = _MM_PERM_CCAA;
    return reinterpret_cast<WordPart>(
        _mm512_mask_shuffle_epi32(reinterpret_cast<__m512i>(even), 0xaaaa, reinterpret_cast<__m512i>(odd), kLowTwice));
#else
    return reinterpret_cast<WordPart>((even & 0xffffffffU) | (odd << 32));
#endif
}

// Decides the ties of a group by the second draw. Rare, hence out of line.
__attribute__((noinline)) inline void decide_ties(const DropoutBits& bits, std::uint64_t group, std::uint64_t out[2]) {
    const std::uint32_t high = static_cast<std::uint32_t>(bits.keep >> 32);
    constexpr std::uint64_t kTieStream = 1ULL << 63;
    for (std::uint32_t l = 0; l < 16; ++l) {
        const PhiloxWords words = philox(16 * group + l, bits.offset, bits.seed);
        for (std::uint32_t k = 0; k < 8; ++k) {
            const std::uint32_t u = (words.word[k / 2] >> (k % 2 * 16)) & 0xffffU;
            if (u != high) continue;
            const std::uint64_t i = 128 * group + 16 * k + l;
            const std::uint32_t v = philox(i >> 2, bits.offset + kTieStream, bits.seed).word[i % 4];
            const std::uint64_t kept = v < static_cast<std::uint32_t>(bits.keep) ? 1 : 0;
            const std::uint32_t shift = k % 4 * 16 + l;
            out[k / 4] = (out[k / 4] & ~(std::uint64_t{1} << shift)) | (kept << shift);
        }
    }
}

// Groups whose bits are made together: their rounds interleave, which hides the latency of the multiplier.
constexpr int kBatch = kVectorBytes == 64 ? 2 : 1;
constexpr std::int64_t kBatchElements = kBatch * kGroup;
constexpr std::int64_t kBatchWords = kBatchElements / 64;

// One bit an element of the 16 (or fewer) counters in `word`: kept where its random number is below the bound, whose
// 16 high bits are given. Adds to `kept` (low halves, then high halves) and says whether there is a tie.
struct Halves {
    std::uint32_t kept, ties;
};
BNFAST_INLINE Halves compare_halves(WordPart word, std::uint32_t bound) {
#if defined(__AVX512F__)
    // Both halves in one comparison of 32 16-bit lanes; the mask is then parted into even and odd bits.
    const __m512i halves = reinterpret_cast<__m512i>(word), bounds = _mm512_set1_epi16(static_cast<short>(bound));
    const std::uint32_t below = _mm512_cmplt_epu16_mask(halves, bounds);
    return {_pext_u32(below, 0x55555555U) | _pext_u32(below, 0xaaaaaaaaU) << 16,
            _mm512_cmpeq_epi16_mask(halves, bounds)};
#else
    const WordPart low = word << 16, high = word & 0xffff0000U;
    return {lanes_below(low, bound << 16) | lanes_below(high, bound << 16) << 16,
            lanes_equal(low, bound << 16) | lanes_equal(high, bound << 16)};
#endif
}

// The keep bits of groups `group` .. + kBatch - 1, bit 0 of out[0] first; group is a multiple of kBatch, 0 < keep <
// 2**48.
BNFAST_INLINE void keep_bits_of_batch(const DropoutBits& bits, PhiloxStream& stream, std::uint64_t group,
                                      std::uint64_t* out) {
    const std::uint32_t bound = static_cast<std::uint32_t>(bits.keep >> 32);
    const std::uint64_t first = 16 * group;
    if (__builtin_expect(first >> 32 != stream.counter_high, 0)) {
        stream.set_counter_high(static_cast<std::uint32_t>(first >> 32));
    }
    std::uint32_t words[kBatch][4] = {}, ties[kBatch][4] = {};
    BNFAST_UNROLL for (int part = 0; part < 64 / kVectorBytes; ++part) {
        WidePart lane;
        BNFAST_UNROLL for (int j = 0; j < kVectorBytes / 8; ++j) {
            lane[j] = static_cast<std::uint64_t>(part * kWordLanes + 2 * j);
        }
        WideState even[kBatch], odd[kBatch];
        BNFAST_UNROLL for (int g = 0; g < kBatch; ++g) {
            const WidePart counter = lane + ((first + static_cast<std::uint64_t>(16 * g)) & 0xffffffffU);
            even[g].start(counter, stream);
            odd[g].start(counter + 1, stream);
        }
        BNFAST_UNROLL for (int round = 2; round < kPhiloxRounds; ++round) {
            BNFAST_UNROLL for (int g = 0; g < kBatch; ++g) {
                even[g].mix(stream.k0[round], stream.k1[round]);
                odd[g].mix(stream.k0[round], stream.k1[round]);
            }
        }
        BNFAST_UNROLL for (int g = 0; g < kBatch; ++g) {
            BNFAST_UNROLL for (int w = 0; w < 4; ++w) {
                const Halves halves = compare_halves(interleave_low_halves(even[g].c[w], odd[g].c[w]), bound);
                words[g][w] |= halves.kept << (part * kWordLanes);
                ties[g][w] |= halves.ties;
            }
        }
    }
    // Whole words from registers: what is about to be loaded again must not be in pieces.
    BNFAST_UNROLL for (int g = 0; g < kBatch; ++g) {
        out[2 * g] = words[g][0] | static_cast<std::uint64_t>(words[g][1]) << 32;
        out[2 * g + 1] = words[g][2] | static_cast<std::uint64_t>(words[g][3]) << 32;
    }
    BNFAST_UNROLL for (int g = 0; g < kBatch; ++g) {
#if defined(__AVX512F__)
        const bool tie = !_kortestz_mask32_u8(ties[g][0], ties[g][1]) || !_kortestz_mask32_u8(ties[g][2], ties[g][3]);
#else
        const bool tie = (ties[g][0] | ties[g][1] | ties[g][2] | ties[g][3]) != 0;
#endif
        if (__builtin_expect(tie, 0)) decide_ties(bits, group + static_cast<std::uint64_t>(g), out + 2 * g);
    }
}

// 16 bits from bit `i` on, and others above them. By whole words as they were stored: the processor hands a load the
// value of a store that is still under way, but not parts of two. No word is read that has none of the 16: another
// thread may be writing it.
BNFAST_INLINE std::uint64_t bits_of_words(const std::uint64_t* words, std::int64_t i) {
    const std::uint64_t low = words[i >> 6] >> (i & 63), high = words[(i + 15) >> 6] << 1 << (63 - (i & 63));
    return low | high;
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
