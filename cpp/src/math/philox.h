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

// The keys of all rounds, in memory: broadcasting them from there costs no arithmetic.
struct PhiloxKeys {
    std::uint64_t k0[kPhiloxRounds], k1[kPhiloxRounds];

    BNFAST_INLINE explicit PhiloxKeys(std::uint64_t seed) {
        std::uint32_t a = static_cast<std::uint32_t>(seed), b = static_cast<std::uint32_t>(seed >> 32);
        for (int round = 0; round < kPhiloxRounds; ++round, a += kPhiloxWeyl0, b += kPhiloxWeyl1) {
            k0[round] = a;
            k1[round] = b;
        }
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
    WidePart c0, c1, c2, c3;

    BNFAST_INLINE void mix(std::uint64_t k0, std::uint64_t k1) {
        const WidePart p0 = multiply_low_halves(c0, kPhiloxMultiplier0);
        const WidePart p1 = multiply_low_halves(c2, kPhiloxMultiplier1);
        c0 = xor3(p1 >> 32, c1, WidePart{} + k0);
        c1 = p1;
        c2 = xor3(p0 >> 32, c3, WidePart{} + k1);
        c3 = p0;
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

// Decides the ties of a group by the second draw. Rare, hence out of line.
__attribute__((noinline)) inline void decide_ties(const DropoutBits& bits, std::uint64_t group, std::uint32_t out[4]) {
    const std::uint32_t high = static_cast<std::uint32_t>(bits.keep >> 32);
    constexpr std::uint64_t kTieStream = 1ULL << 63;
    for (std::uint32_t l = 0; l < 16; ++l) {
        const PhiloxWords words = philox(16 * group + l, bits.offset, bits.seed);
        for (std::uint32_t k = 0; k < 8; ++k) {
            const std::uint32_t u = (words.word[k / 2] >> (k % 2 * 16)) & 0xffffU;
            if (u != high) continue;
            const std::uint64_t i = 128 * group + 16 * k + l;
            const std::uint32_t v = philox(i >> 2, bits.offset + kTieStream, bits.seed).word[i % 4];
            const std::uint32_t kept = v < static_cast<std::uint32_t>(bits.keep) ? 1U : 0U;
            const std::uint32_t shift = k % 2 * 16 + l;
            out[k / 2] = (out[k / 2] & ~(1U << shift)) | (kept << shift);
        }
    }
}

// The keep bits of elements 128 * group .. + 127, bit 0 of out[0] first. 0 < keep < 2**48.
BNFAST_INLINE void keep_bits_of_group(const DropoutBits& bits, const PhiloxKeys& keys, std::uint64_t group,
                                      std::uint8_t* out) {
    const std::uint32_t bound = static_cast<std::uint32_t>(bits.keep >> 32) << 16;
    const std::uint64_t first = 16 * group;
    std::uint32_t words[4] = {}, ties = 0;
    BNFAST_UNROLL for (int part = 0; part < 64 / kVectorBytes; ++part) {
        WidePart lane;
        BNFAST_UNROLL for (int j = 0; j < kVectorBytes / 8; ++j) {
            lane[j] = static_cast<std::uint64_t>(part * kWordLanes + 2 * j);
        }
        const WidePart zero = WidePart{};
        const WidePart even_counter = lane + (first & 0xffffffffU);
        WideState even{even_counter, zero + (first >> 32), zero + (bits.offset & 0xffffffffU),
                       zero + (bits.offset >> 32)};
        WideState odd = even;
        odd.c0 = even_counter + 1;
        BNFAST_UNROLL for (int round = 0; round < kPhiloxRounds; ++round) {
            even.mix(keys.k0[round], keys.k1[round]);
            odd.mix(keys.k0[round], keys.k1[round]);
        }
        const WidePart evens[] = {even.c0, even.c1, even.c2, even.c3}, odds[] = {odd.c0, odd.c1, odd.c2, odd.c3};
        BNFAST_UNROLL for (int w = 0; w < 4; ++w) {
            const WordPart word = reinterpret_cast<WordPart>((evens[w] & 0xffffffffU) | (odds[w] << 32));
#if defined(__AVX512F__)
            // Both halves in one comparison of 32 16-bit lanes; the mask is then parted into even and odd bits.
            const __m512i halves = reinterpret_cast<__m512i>(word);
            const __m512i bounds = _mm512_set1_epi16(static_cast<short>(bound >> 16));
            const std::uint32_t below = _mm512_cmplt_epu16_mask(halves, bounds);
            words[w] = _pext_u32(below, 0x55555555U) | _pext_u32(below, 0xaaaaaaaaU) << 16;
            ties |= _mm512_cmpeq_epi16_mask(halves, bounds);
#else
            const WordPart low = word << 16, high = word & 0xffff0000U;
            words[w] |= (lanes_below(low, bound) | lanes_below(high, bound) << 16) << (part * kWordLanes);
            ties |= lanes_equal(low, bound) | lanes_equal(high, bound);
#endif
        }
    }
    if (__builtin_expect(ties != 0, 0)) decide_ties(bits, group, words);
    __builtin_memcpy(out, words, sizeof words);
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
