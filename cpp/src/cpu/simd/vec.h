// Vec<T>: 16 logical lanes of float or double, made of the target's native registers.
//
// The number of logical lanes is the same on every target, so a reduction adds the same numbers in the same order
// whatever the register width, and only lane-wise IEEE operations (no fused multiply-add, except where the product is
// exact) are offered: equal bits on every target follow. They are those that numerics/ asks of a value, and
// numerics/scalar.h says what each of them does. Compiled once per target, in a namespace named after it.
#pragma once

#include <cstdint>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "numerics/scalar.h"
#include "numerics/sums.h"

#define BNFAST_ROLL _Pragma("GCC unroll 1")

namespace bnfast {
namespace BNFAST_TARGET {

constexpr int kVectorBytes = BNFAST_VECTOR_BYTES;  // of one native register

template <class T>
struct Native;

template <>
struct Native<float> : Format<float> {
    typedef float Part __attribute__((vector_size(kVectorBytes)));
    typedef std::int32_t Bits __attribute__((vector_size(kVectorBytes)));
    typedef std::uint32_t UnsignedBits __attribute__((vector_size(kVectorBytes)));
};

template <>
struct Native<double> : Format<double> {
    typedef double Part __attribute__((vector_size(kVectorBytes)));
    typedef std::int64_t Bits __attribute__((vector_size(kVectorBytes)));
    typedef std::uint64_t UnsignedBits __attribute__((vector_size(kVectorBytes)));
};

// One truth value a lane: all bits set or none.
template <class T>
struct Mask {
    using Bits = typename Native<T>::Bits;
    static constexpr int kParts = kLanes * static_cast<int>(sizeof(T)) / kVectorBytes;
    Bits part[kParts];
};

template <class T>
struct Vec {
    using Scalar = T;
    using Part = typename Native<T>::Part;
    using Bits = typename Native<T>::Bits;
    static constexpr int kParts = kLanes * static_cast<int>(sizeof(T)) / kVectorBytes;
    static constexpr int kPartLanes = kLanes / kParts;
    Part part[kParts];

    Vec() = default;
    BNFAST_INLINE explicit Vec(T value) { BNFAST_UNROLL for (int k = 0; k < kParts; ++k) part[k] = value - Part{}; }
};

template <class T, class F>
BNFAST_INLINE Vec<T> map_parts(F f) {
    Vec<T> result;
    BNFAST_UNROLL for (int k = 0; k < Vec<T>::kParts; ++k) result.part[k] = f(k);
    return result;
}

template <class T, class F>
BNFAST_INLINE Mask<T> map_masks(F f) {
    Mask<T> result;
    BNFAST_UNROLL for (int k = 0; k < Mask<T>::kParts; ++k) result.part[k] = f(k);
    return result;
}

#define BNFAST_EACH [&](int k) __attribute__((always_inline))

template <class T>
BNFAST_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) {
    return map_parts<T>(BNFAST_EACH { return a.part[k] + b.part[k]; });
}
template <class T>
BNFAST_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) {
    return map_parts<T>(BNFAST_EACH { return a.part[k] - b.part[k]; });
}
template <class T>
BNFAST_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) {
    return map_parts<T>(BNFAST_EACH { return a.part[k] * b.part[k]; });
}
template <class T>
BNFAST_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) {
    return map_parts<T>(BNFAST_EACH { return a.part[k] / b.part[k]; });
}
template <class T>
BNFAST_INLINE Vec<T> operator-(Vec<T> a) {
    return map_parts<T>(BNFAST_EACH { return -a.part[k]; });
}

template <class T>
BNFAST_INLINE Mask<T> operator<(Vec<T> a, Vec<T> b) {
    return map_masks<T>(BNFAST_EACH { return a.part[k] < b.part[k]; });
}
template <class T>
BNFAST_INLINE Mask<T> operator<=(Vec<T> a, Vec<T> b) {
    return map_masks<T>(BNFAST_EACH { return a.part[k] <= b.part[k]; });
}
template <class T>
BNFAST_INLINE Mask<T> operator>(Vec<T> a, Vec<T> b) {
    return b < a;
}
template <class T>
BNFAST_INLINE Mask<T> operator>=(Vec<T> a, Vec<T> b) {
    return b <= a;
}
template <class T>
BNFAST_INLINE Mask<T> operator==(Vec<T> a, Vec<T> b) {
    return map_masks<T>(BNFAST_EACH { return a.part[k] == b.part[k]; });
}
template <class T>
BNFAST_INLINE Mask<T> operator!=(Vec<T> a, Vec<T> b) {
    return map_masks<T>(BNFAST_EACH { return a.part[k] != b.part[k]; });
}
template <class T>
BNFAST_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) {
    return map_masks<T>(BNFAST_EACH { return a.part[k] & b.part[k]; });
}
template <class T>
BNFAST_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) {
    return map_masks<T>(BNFAST_EACH { return a.part[k] | b.part[k]; });
}
template <class T>
BNFAST_INLINE Mask<T> operator~(Mask<T> a) {
    return map_masks<T>(BNFAST_EACH { return ~a.part[k]; });
}

template <class T>
BNFAST_INLINE Vec<T> select(Mask<T> mask, Vec<T> a, Vec<T> b) {
    return map_parts<T>(BNFAST_EACH { return mask.part[k] ? a.part[k] : b.part[k]; });
}
// (a < b) ? a : b and (a > b) ? a : b, which is what x86's minimum and maximum do with NaN and zeros; gcc does not find
// these instructions by itself.
template <class T>
BNFAST_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
    return select(a < b, a, b);
}
template <class T>
BNFAST_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
    return select(a > b, a, b);
}
#if defined(__AVX512F__)
BNFAST_INLINE Vec<float> min(Vec<float> a, Vec<float> b) {
    return map_parts<float>(BNFAST_EACH { return _mm512_maskz_min_ps(0xffff, a.part[k], b.part[k]); });
}
BNFAST_INLINE Vec<float> max(Vec<float> a, Vec<float> b) {
    return map_parts<float>(BNFAST_EACH { return _mm512_maskz_max_ps(0xffff, a.part[k], b.part[k]); });
}
#elif defined(__AVX__)
BNFAST_INLINE Vec<float> min(Vec<float> a, Vec<float> b) {
    return map_parts<float>(BNFAST_EACH { return _mm256_min_ps(a.part[k], b.part[k]); });
}
BNFAST_INLINE Vec<float> max(Vec<float> a, Vec<float> b) {
    return map_parts<float>(BNFAST_EACH { return _mm256_max_ps(a.part[k], b.part[k]); });
}
#elif defined(__SSE2__)
BNFAST_INLINE Vec<float> min(Vec<float> a, Vec<float> b) {
    return map_parts<float>(BNFAST_EACH { return _mm_min_ps(a.part[k], b.part[k]); });
}
BNFAST_INLINE Vec<float> max(Vec<float> a, Vec<float> b) {
    return map_parts<float>(BNFAST_EACH { return _mm_max_ps(a.part[k], b.part[k]); });
}
#endif

// --- bits -------------------------------------------------------------------------------------------------------

// Bit operations lane by lane, on the integer view of the lanes.
template <class T, class F>
BNFAST_INLINE Vec<T> map_bits(F f) {
    using Part = typename Vec<T>::Part;
    return map_parts<T>(BNFAST_EACH { return reinterpret_cast<Part>(f(k)); });
}
template <class T>
BNFAST_INLINE typename Vec<T>::Bits bits(Vec<T> a, int k) {
    return reinterpret_cast<typename Vec<T>::Bits>(a.part[k]);
}
template <class T>
struct Sign {
    static constexpr typename Native<T>::Int kBit = static_cast<typename Native<T>::Int>(1ULL << (sizeof(T) * 8 - 1));
};
template <class T>
BNFAST_INLINE Vec<T> abs(Vec<T> a) {
    return map_bits<T>(BNFAST_EACH { return bits(a, k) & ~Sign<T>::kBit; });
}
template <class T>
BNFAST_INLINE Vec<T> copysign(Vec<T> magnitude, Vec<T> sign) {
    return map_bits<T>(BNFAST_EACH { return (bits(magnitude, k) & ~Sign<T>::kBit) | (bits(sign, k) & Sign<T>::kBit); });
}
template <class T>
BNFAST_INLINE Vec<T> truncate_low(Vec<T> a) {
    return map_bits<T>(BNFAST_EACH { return bits(a, k) & ~Native<T>::kLowBits; });
}
template <class T>
BNFAST_INLINE Vec<T> round_even(Vec<T> a) {
    return (a + Vec<T>(kRoundsToInteger<T>)) - Vec<T>(kRoundsToInteger<T>);
}
template <class T>
BNFAST_INLINE Vec<T> pow2n(Vec<T> a) {
    const Vec<T> biased = a + Vec<T>(kRoundsToInteger<T> + static_cast<T>(Native<T>::kBias));
    return map_bits<T>(BNFAST_EACH { return bits(biased, k) << Native<T>::kMantissa; });
}
template <class T>
BNFAST_INLINE Vec<T> exponent(Vec<T> a) {
    using Unsigned = typename Native<T>::UnsignedBits;
    const Vec<T> magic(kRoundsToInteger<T>);
    const Vec<T> biased = map_bits<T>(BNFAST_EACH {
        return (reinterpret_cast<Unsigned>(a.part[k]) >> Native<T>::kMantissa) |
               reinterpret_cast<Unsigned>(magic.part[k]);
    });
    return biased - Vec<T>(kRoundsToInteger<T> + static_cast<T>(Native<T>::kBias));
}
template <class T>
BNFAST_INLINE Vec<T> sqrt(Vec<T> a) {
    Vec<T> result;
    BNFAST_UNROLL for (int k = 0; k < Vec<T>::kParts; ++k) {
        for (int lane = 0; lane < Vec<T>::kPartLanes; ++lane) {
            result.part[k][lane] = static_cast<T>(sizeof(T) == 4 ? __builtin_sqrtf(static_cast<float>(a.part[k][lane]))
                                                                 : __builtin_sqrt(a.part[k][lane]));
        }
    }
    return result;
}

// The lanes 0 .. count - 1.
template <class T>
BNFAST_INLINE Mask<T> first_lanes(int count) {
    using Int = typename Native<T>::Int;
    return map_masks<T>(BNFAST_EACH {
        typename Native<T>::Bits index;
        BNFAST_UNROLL for (int lane = 0; lane < Vec<T>::kPartLanes; ++lane) {
            index[lane] = static_cast<Int>(lane + k * Vec<T>::kPartLanes);
        }
        return index < static_cast<Int>(count);
    });
}
// Lane i is bit i of `word`.
template <class T>
BNFAST_INLINE Mask<T> lanes_of(std::uint32_t word) {
    using Int = typename Native<T>::Int;
    return map_masks<T>(BNFAST_EACH {
        typename Native<T>::Bits bit;
        BNFAST_UNROLL for (int lane = 0; lane < Vec<T>::kPartLanes; ++lane) {
            bit[lane] = static_cast<Int>(1) << (lane + k * Vec<T>::kPartLanes);
        }
        return (bit & static_cast<Int>(word)) != 0;
    });
}

// Lane i of a where bit i of `word` is set, else that of b.
template <class T>
BNFAST_INLINE Vec<T> select_bits(std::uint32_t word, Vec<T> a, Vec<T> b) {
    return select(lanes_of<T>(word), a, b);
}
#if defined(__AVX512F__)
BNFAST_INLINE Vec<float> select_bits(std::uint32_t word, Vec<float> a, Vec<float> b) {
    a.part[0] = _mm512_mask_mov_ps(b.part[0], static_cast<__mmask16>(word), a.part[0]);
    return a;
}
BNFAST_INLINE Vec<double> select_bits(std::uint32_t word, Vec<double> a, Vec<double> b) {
    return map_parts<double>(
        BNFAST_EACH { return _mm512_mask_mov_pd(b.part[k], static_cast<__mmask8>(word >> (8 * k)), a.part[k]); });
}
#endif

// --- widening to double, and the one exact fused operation -------------------------------------------------------

// (Intrinsics: gcc 12 splits a generic conversion into pieces of half a register.)

typedef float HalfPart __attribute__((vector_size(kVectorBytes / 2)));

BNFAST_INLINE Vec<double>::Part widen_half(HalfPart half) {
#if defined(__AVX512F__)
    return _mm512_maskz_cvtps_pd(0xff, half);
#elif defined(__AVX__)
    return _mm256_cvtps_pd(half);
#else
    return __builtin_convertvector(half, Vec<double>::Part);
#endif
}
BNFAST_INLINE HalfPart low_half(Vec<float>::Part a) {
#if defined(__AVX512F__)
    return _mm512_maskz_extractf32x8_ps(0xff, a, 0);
#elif defined(__AVX__)
    return _mm256_castps256_ps128(a);
#else
    return HalfPart{a[0], a[1]};
#endif
}
BNFAST_INLINE HalfPart high_half(Vec<float>::Part a) {
#if defined(__AVX512F__)
    return _mm512_maskz_extractf32x8_ps(0xff, a, 1);
#elif defined(__AVX__)
    return _mm256_extractf128_ps(a, 1);
#else
    return HalfPart{a[2], a[3]};
#endif
}

BNFAST_INLINE Vec<double> widen(Vec<double> a) { return a; }
BNFAST_INLINE Vec<double> widen(Vec<float> a) {
    Vec<double> result;
    BNFAST_UNROLL for (int k = 0; k < Vec<float>::kParts; ++k) {
        result.part[2 * k] = widen_half(low_half(a.part[k]));
        result.part[2 * k + 1] = widen_half(high_half(a.part[k]));
    }
    return result;
}

// Rounded to nearest even.
BNFAST_INLINE Vec<float> narrow(Vec<double> a) {
    Vec<float> result;
    BNFAST_UNROLL for (int k = 0; k < Vec<float>::kParts; ++k) {
#if defined(__AVX512F__)
        const __m256 low = _mm512_maskz_cvtpd_ps(0xff, a.part[2 * k]);
        const __m256 high = _mm512_maskz_cvtpd_ps(0xff, a.part[2 * k + 1]);
        result.part[k] = _mm512_maskz_insertf32x8(0xffff, _mm512_castps256_ps512(low), high, 1);
#elif defined(__AVX__)
        result.part[k] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(a.part[2 * k])),
                                              _mm256_cvtpd_ps(a.part[2 * k + 1]), 1);
#else
        BNFAST_UNROLL for (int lane = 0; lane < Vec<float>::kPartLanes; ++lane) {
            constexpr int kHalf = Vec<double>::kPartLanes;
            result.part[k][lane] = static_cast<float>(a.part[2 * k + lane / kHalf][lane % kHalf]);
        }
#endif
    }
    return result;
}

// sum + a * b where a * b is exact in double (both came from 32-bit or narrower values): fused and unfused agree bit
// for bit, so targets may differ in which one they use.
BNFAST_INLINE Vec<double> add_exact_product(Vec<double> sum, Vec<double> a, Vec<double> b) {
    return map_parts<double>(BNFAST_EACH {
#if defined(__AVX512F__)
        return _mm512_fmadd_pd(a.part[k], b.part[k], sum.part[k]);
#elif defined(__FMA__)
        return _mm256_fmadd_pd(a.part[k], b.part[k], sum.part[k]);
#else
        return sum.part[k] + a.part[k] * b.part[k];
#endif
    });
}

// The sum of the lanes along the tree of sum_along_tree() in numerics/sums.h. In registers: to load lanes one by one
// that were stored as a vector takes as long as the sums of a hundred elements.
BNFAST_INLINE double sum_lanes(Vec<double> a) {
    BNFAST_UNROLL for (int half = Vec<double>::kParts / 2; half > 0; half /= 2) {
        BNFAST_UNROLL for (int k = 0; k < half; ++k) a.part[k] = a.part[k] + a.part[k + half];
    }
#if defined(__AVX512F__)
    const __m256d four =
        _mm512_maskz_extractf64x4_pd(0xf, a.part[0], 0) + _mm512_maskz_extractf64x4_pd(0xf, a.part[0], 1);
#elif defined(__AVX__)
    const __m256d four = a.part[0];
#endif
#if defined(__AVX__)
    const __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
#else
    const Vec<double>::Part two = a.part[0];
    static_assert(Vec<double>::kPartLanes == 2, "registers of two numbers");
#endif
    return two[0] + two[1];
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
