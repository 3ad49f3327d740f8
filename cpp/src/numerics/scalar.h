// The values that numerics/ computes with, and their operations where a value is one number.
//
// A value V is float, double or something made of lanes of these: cpu/simd/vec.h has the same operations for Vec<T>.
// Besides + - * / and comparisons, whose result is a truth value that select, & | and ~ or ! take, they are the
// functions of this file. All act lane by lane and are defined to the bit, so that every kind of value gives the same
// bits.
#pragma once

#include <cstdint>

#include "numerics/portable.h"

namespace bnfast::BNFAST_NUMERICS {

// How a number is laid out in bits. Only float and double have a format.
template <class T>
struct Format;
template <>
struct Format<float> {
    using Int = std::int32_t;
    using Unsigned = std::uint32_t;
    static constexpr int kMantissa = 23;
    static constexpr Int kBias = 127;
    static constexpr Int kLowBits = (1 << 12) - 1;  // the low half of the mantissa
};
template <>
struct Format<double> {
    using Int = std::int64_t;
    using Unsigned = std::uint64_t;
    static constexpr int kMantissa = 52;
    static constexpr Int kBias = 1023;
    static constexpr Int kLowBits = (std::int64_t{1} << 27) - 1;
};

// The type of a value's lanes.
template <class V>
struct LaneOf {
    using Type = typename V::Scalar;
};
template <>
struct LaneOf<float> {
    using Type = float;
};
template <>
struct LaneOf<double> {
    using Type = double;
};
template <class V>
using Scalar = typename LaneOf<V>::Type;
template <class V>
constexpr bool kIsDouble = sizeof(Scalar<V>) == 8;

template <class T, class Bits = typename Format<T>::Unsigned>
BNFAST_INLINE Bits bits_of(T a) {
    Bits bits;
    __builtin_memcpy(&bits, &a, sizeof bits);
    return bits;
}
template <class T, class Bits = typename Format<T>::Unsigned>
BNFAST_INLINE T from_bits(Bits bits) {
    T a;
    __builtin_memcpy(&a, &bits, sizeof a);
    return a;
}

template <class T, class = typename Format<T>::Int>
BNFAST_INLINE T select(bool mask, T a, T b) {
    return mask ? a : b;
}
// min and max return the second argument where either is NaN or both are zeros.
template <class T, class = typename Format<T>::Int>
BNFAST_INLINE T min(T a, T b) {
    return a < b ? a : b;
}
template <class T, class = typename Format<T>::Int>
BNFAST_INLINE T max(T a, T b) {
    return a > b ? a : b;
}
template <class T, class Bits = typename Format<T>::Unsigned>
BNFAST_INLINE T abs(T a) {
    return from_bits<T>(bits_of(a) & ~(Bits{1} << (8 * sizeof(T) - 1)));
}
template <class T, class Bits = typename Format<T>::Unsigned>
BNFAST_INLINE T copysign(T magnitude, T sign) {
    constexpr Bits kSign = Bits{1} << (8 * sizeof(T) - 1);
    return from_bits<T>((bits_of(magnitude) & ~kSign) | (bits_of(sign) & kSign));
}
// Clears the low half of the mantissa, so that products of such values are exact.
template <class T, class Bits = typename Format<T>::Unsigned>
BNFAST_INLINE T truncate_low(T a) {
    return from_bits<T>(bits_of(a) & ~static_cast<Bits>(Format<T>::kLowBits));
}

// Added to a number that is small beside it, this leaves no bits below one: the sum is rounded to an integer, which
// stands in the low bits of its mantissa.
template <class T>
constexpr T kRoundsToInteger = static_cast<T>(typename Format<T>::Int{3} << (Format<T>::kMantissa - 1));

// The nearest integer, ties to even, for |a| < 2**22 (float) or 2**51 (double).
template <class T, class = typename Format<T>::Int>
BNFAST_INLINE T round_even(T a) {
    return (a + kRoundsToInteger<T>)-kRoundsToInteger<T>;
}
// 2**a for integral a from -127 (gives 0) to 128 (gives infinity); -1023 and 1024 for double. Shifted up, the integer
// in the low bits of the sum is the exponent field.
template <class T, class = typename Format<T>::Int>
BNFAST_INLINE T pow2n(T a) {
    const T biased = a + (kRoundsToInteger<T> + static_cast<T>(Format<T>::kBias));
    return from_bits<T>(bits_of(biased) << Format<T>::kMantissa);
}
// The greatest integer n with 2**n <= a, for normal a > 0; the reverse of pow2n.
template <class T, class = typename Format<T>::Int>
BNFAST_INLINE T exponent(T a) {
    const T biased = from_bits<T>((bits_of(a) >> Format<T>::kMantissa) | bits_of(kRoundsToInteger<T>));
    return biased - (kRoundsToInteger<T> + static_cast<T>(Format<T>::kBias));
}
BNFAST_INLINE float sqrt(float a) { return __builtin_sqrtf(a); }
BNFAST_INLINE double sqrt(double a) { return __builtin_sqrt(a); }

// Between the type of storage's arithmetic and float64.
BNFAST_INLINE double widen(float a) { return static_cast<double>(a); }
BNFAST_INLINE double widen(double a) { return a; }
BNFAST_INLINE float narrow(double a) { return static_cast<float>(a); }  // to nearest even

}  // namespace bnfast::BNFAST_NUMERICS
