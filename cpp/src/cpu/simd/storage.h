// How elements lie in memory and how 16 of them become a Vec and go back: float, double, IEEE half and bfloat16.
#pragma once

#include <cstddef>

#include "cpu/simd/vec.h"

namespace bnfast {

// 16-bit elements as they lie in memory. Arithmetic on them is float.
struct Half {
    std::uint16_t bits;
};
struct BFloat16 {
    std::uint16_t bits;
};

namespace BNFAST_TARGET {

// The type in which elements stored as S are computed with.
template <class S>
struct ComputeOf {
    using Type = float;
};
template <>
struct ComputeOf<double> {
    using Type = double;
};
template <class S>
using Compute = typename ComputeOf<S>::Type;

typedef std::uint32_t WordPart __attribute__((vector_size(kVectorBytes)));
typedef std::uint16_t ShortPart __attribute__((vector_size(kVectorBytes / 2)));

// --- 16-bit conversions of one native register of floats; the integer forms equal the hardware's for every input ---

#if defined(__AVX512F__)
// The high halves of the words of a register: the 16-bit lanes that a bfloat16 is found in.
constexpr __mmask32 kHighHalves = 0xaaaaaaaaU;
#else
BNFAST_INLINE WordPart extend(ShortPart raw) { return __builtin_convertvector(raw, WordPart); }
BNFAST_INLINE ShortPart truncate(WordPart word) { return __builtin_convertvector(word, ShortPart); }
#endif

BNFAST_INLINE Vec<float>::Part decode(ShortPart raw, BFloat16) {
#if defined(__AVX512F__)
    // One shuffle: lane i goes to the high half of word i.
    const __m512i source = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 6, 6, 5,
                                            5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512i lanes = _mm512_castsi256_si512(reinterpret_cast<__m256i>(raw));
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(kHighHalves, source, lanes));
#else
    return reinterpret_cast<Vec<float>::Part>(extend(raw) << 16);
#endif
}

// Round to nearest even by adding half a unit (less one where the result's last bit is even) and cutting.
// vcvtneps2bf16 is not used: it flushes denormals to zero.
BNFAST_INLINE ShortPart encode(Vec<float>::Part value, BFloat16) {
#if defined(__AVX512F__)
    const __m512i word = _mm512_castps_si512(value);
    // word | (its bit 16 as bit 0): breaks a tie where the result's last bit is odd, and else changes nothing.
    constexpr int kFirstOrBoth = 0xf8;  // truth table
    __m512i rounded =
        _mm512_ternarylogic_epi32(word, _mm512_maskz_srli_epi32(0xffff, word, 16), _mm512_set1_epi32(1), kFirstOrBoth);
    rounded = _mm512_add_epi32(rounded, _mm512_set1_epi32(0x7fff));
    // NaN stays NaN: where `value` is one, it replaces what was rounded, made quiet.
    constexpr int kQuietNan = 0x22;  // the responses to a quiet and to a signalling NaN; to all else, `rounded`
    rounded =
        _mm512_castps_si512(_mm512_fixupimm_ps(_mm512_castsi512_ps(rounded), value, _mm512_set1_epi32(kQuietNan), 0));
    // One shuffle, where a shift and vpmovdw would be three operations.
    const __m512i source = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 29, 27, 25, 23, 21, 19,
                                            17, 15, 13, 11, 9, 7, 5, 3, 1);
    const __m512i high = _mm512_maskz_permutexvar_epi16(0xffffffffU, source, rounded);
    return reinterpret_cast<ShortPart>(_mm512_maskz_extracti32x8_epi32(0xff, high, 0));
#else
    const WordPart word = reinterpret_cast<WordPart>(value);
    const WordPart rounded = (word + 0x7fffU + ((word >> 16) & 1U)) >> 16;
    const WordPart quiet_nan = (word >> 16) | 0x40U;
    return truncate((word & 0x7fffffffU) > 0x7f800000U ? quiet_nan : rounded);
#endif
}

BNFAST_INLINE Vec<float>::Part decode(ShortPart raw, Half) {
#if defined(__AVX512F__)
    return _mm512_maskz_cvtph_ps(0xffff, reinterpret_cast<__m256i>(raw));
#elif defined(__F16C__)
    return _mm256_cvtph_ps(reinterpret_cast<__m128i>(raw));
#else
    // Shifted into place a half is a float 2**112 too small, denormals included; the product is exact.
    const WordPart word = extend(raw);
    const WordPart magnitude = (word & 0x7fffU) << 13;
    const Vec<float>::Part scaled = reinterpret_cast<Vec<float>::Part>(magnitude) * 0x1p112F;
    const WordPart special = magnitude >= 0x0f800000U ? (magnitude - magnitude) + 0x7f800000U : magnitude - magnitude;
    const WordPart quiet = magnitude > 0x0f800000U ? (magnitude - magnitude) + 0x400000U : magnitude - magnitude;
    return reinterpret_cast<Vec<float>::Part>(reinterpret_cast<WordPart>(scaled) | special | quiet |
                                              ((word & 0x8000U) << 16));
#endif
}

BNFAST_INLINE ShortPart encode(Vec<float>::Part value, Half) {
#if defined(__AVX512F__)
    return reinterpret_cast<ShortPart>(
        _mm512_maskz_cvtps_ph(0xffff, value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
    return reinterpret_cast<ShortPart>(_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
#else
    const WordPart word = reinterpret_cast<WordPart>(value);
    const WordPart magnitude = word & 0x7fffffffU;
    // Normal halves: rebias the exponent and round as for bfloat16, 13 bits lower.
    const WordPart normal = (magnitude - (112U << 23) + 0xfffU + ((magnitude >> 13) & 1U)) >> 13;
    // Denormal halves: adding 0.5 leaves exactly the wanted bits at the bottom of the sum, rounded by the adder.
    const WordPart denormal =
        reinterpret_cast<WordPart>(reinterpret_cast<Vec<float>::Part>(magnitude) + 0.5F) - 0x3f000000U;
    const WordPart zero = word - word;
    WordPart result = magnitude < (113U << 23) ? denormal : normal;
    result = magnitude >= 0x477ff000U ? zero + 0x7c00U : result;  // 65520 and above round to infinity
    result = magnitude > 0x7f800000U ? (0x7e00U | ((magnitude >> 13) & 0x3ffU)) : result;
    return truncate(result | ((word >> 16) & 0x8000U));
#endif
}

#if defined(__AVX512F__)
// Half a register of floats.
BNFAST_INLINE HalfPart decode_half(__m128i raw, BFloat16) {
    const __m256i source = _mm256_set_epi16(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m256i lanes = _mm256_castsi128_si256(raw);
    return _mm256_castsi256_ps(_mm256_maskz_permutexvar_epi16(static_cast<__mmask16>(kHighHalves), source, lanes));
}
BNFAST_INLINE HalfPart decode_half(__m128i raw, Half) { return _mm256_cvtph_ps(raw); }
#endif

// --- whole vectors ----------------------------------------------------------------------------------------------

template <class T>
BNFAST_INLINE Vec<T> load(const T* p) {
    return map_parts<T>(BNFAST_EACH {
        typename Vec<T>::Part part;
        __builtin_memcpy(&part, p + k * Vec<T>::kPartLanes, sizeof part);
        return part;
    });
}
// One part of a vector from p on, its lanes taken from where `lane` says, into out.
template <class T>
BNFAST_INLINE void expand_part(const T* p, const typename Native<T>::Int* lane, T* out) {
    typename Vec<T>::Part part;
    __builtin_memcpy(&part, p, sizeof part);
#if defined(__clang__)
    for (int k = 0; k < Vec<T>::kPartLanes; ++k) out[k] = part[lane[k]];
#else
    typename Vec<T>::Bits lanes;
    __builtin_memcpy(&lanes, lane, sizeof lanes);
    part = __builtin_shuffle(part, lanes);
    __builtin_memcpy(out, &part, sizeof part);
#endif
}
template <class S>
BNFAST_INLINE Vec<float> load_short(const S* p) {
    return map_parts<float>(BNFAST_EACH {
        ShortPart raw;
        __builtin_memcpy(&raw, p + k * Vec<float>::kPartLanes, sizeof raw);
        return decode(raw, S{});
    });
}
BNFAST_INLINE Vec<float> load(const Half* p) { return load_short(p); }
BNFAST_INLINE Vec<float> load(const BFloat16* p) { return load_short(p); }

template <class T>
BNFAST_INLINE void store(T* p, Vec<T> v) {
    BNFAST_UNROLL for (int k = 0; k < Vec<T>::kParts; ++k) {
        __builtin_memcpy(p + k * Vec<T>::kPartLanes, &v.part[k], sizeof v.part[k]);
    }
}
template <class S>
BNFAST_INLINE void store_short(S* p, Vec<float> v) {
    BNFAST_UNROLL for (int k = 0; k < Vec<float>::kParts; ++k) {
        const ShortPart raw = encode(v.part[k], S{});
        __builtin_memcpy(p + k * Vec<float>::kPartLanes, &raw, sizeof raw);
    }
}
BNFAST_INLINE void store(Half* p, Vec<float> v) { store_short(p, v); }
BNFAST_INLINE void store(BFloat16* p, Vec<float> v) { store_short(p, v); }

// Stores that bypass the caches; p is aligned to the size of 16 elements or to 64 bytes, whichever is less.
template <class Part>
BNFAST_INLINE void stream_part(void* p, Part part) {
#if defined(__AVX512F__)
    if constexpr (sizeof(Part) == 64) {
        _mm512_stream_si512(static_cast<__m512i*>(p), reinterpret_cast<__m512i>(part));
    } else {
        _mm256_stream_si256(static_cast<__m256i*>(p), reinterpret_cast<__m256i>(part));
    }
#elif defined(__AVX2__)
    if constexpr (sizeof(Part) == 32) {
        _mm256_stream_si256(static_cast<__m256i*>(p), reinterpret_cast<__m256i>(part));
    } else {
        _mm_stream_si128(static_cast<__m128i*>(p), reinterpret_cast<__m128i>(part));
    }
#elif defined(__SSE2__)
    if constexpr (sizeof(Part) == 16) {
        _mm_stream_si128(static_cast<__m128i*>(p), reinterpret_cast<__m128i>(part));
    } else {
        __builtin_memcpy(p, &part, sizeof part);
    }
#else
    __builtin_memcpy(p, &part, sizeof part);
#endif
}
template <class T>
BNFAST_INLINE void stream(T* p, Vec<T> v) {
    BNFAST_UNROLL for (int k = 0; k < Vec<T>::kParts; ++k) stream_part(p + k * Vec<T>::kPartLanes, v.part[k]);
}
template <class S>
BNFAST_INLINE void stream_short(S* p, Vec<float> v) {
    BNFAST_UNROLL for (int k = 0; k < Vec<float>::kParts; ++k) {
        stream_part(p + k * Vec<float>::kPartLanes, encode(v.part[k], S{}));
    }
}
BNFAST_INLINE void stream(Half* p, Vec<float> v) { stream_short(p, v); }
BNFAST_INLINE void stream(BFloat16* p, Vec<float> v) { stream_short(p, v); }
// Orders streamed stores before whatever the thread stores next.
BNFAST_INLINE void stream_fence() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

// --- the first `count` lanes, 0 < count < 16; the other lanes load as zero and are not stored -----------------------

template <class S>
BNFAST_INLINE Vec<Compute<S>> load_first(const S* p, int count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(S) == 4) {
        Vec<float> result;
        result.part[0] = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1U), p);
        return result;
    } else if constexpr (sizeof(S) == 8) {
        const unsigned lanes = (1U << count) - 1U;
        Vec<double> result;
        result.part[0] = _mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), p);
        result.part[1] = _mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes >> 8), p + 8);
        return result;
    }
    if constexpr (sizeof(S) == 2) {
        Vec<float> result;
        const __m256i raw = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1U << count) - 1U), p);
        result.part[0] = decode(reinterpret_cast<ShortPart>(raw), S{});
        return result;
    }
#endif
    S buffer[kLanes] = {};
    __builtin_memcpy(buffer, p, static_cast<std::size_t>(count) * sizeof(S));
    return load(buffer);
}

template <class S>
BNFAST_INLINE void store_first(S* p, Vec<Compute<S>> v, int count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(S) == 4) {
        _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1U << count) - 1U), v.part[0]);
        return;
    } else if constexpr (sizeof(S) == 8) {
        const unsigned lanes = (1U << count) - 1U;
        _mm512_mask_storeu_pd(p, static_cast<__mmask8>(lanes), v.part[0]);
        _mm512_mask_storeu_pd(p + 8, static_cast<__mmask8>(lanes >> 8), v.part[1]);
        return;
    }
    if constexpr (sizeof(S) == 2) {
        const ShortPart raw = encode(v.part[0], S{});
        _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1U << count) - 1U), reinterpret_cast<__m256i>(raw));
        return;
    }
#endif
    S buffer[kLanes];
    store(buffer, v);
    __builtin_memcpy(p, buffer, static_cast<std::size_t>(count) * sizeof(S));
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
