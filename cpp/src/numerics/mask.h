// Which elements dropout keeps, and the numbers that its results are made with: functions of the rate, the seed and the
// offset, the same for every target and device.
//
// Element i of a mask is i = 128 g + 16 k + l with k < 8, l < 16. The counter 16 g + l gives four words of Philox; the
// low half of word k / 2 (k even) or its high half (k odd) is u, which is compared with the 16 high bits of the keep
// threshold K (48 bits). Where these 16 bits are equal, for one element in
// 65,536, another draw v is compared with the 32 low bits.
#pragma once

#include <cstdint>

#include "numerics/philox.h"
#include "numerics/scalar.h"

namespace bnfast {

// Element i is kept where its random number is below keep / 2**48.
struct DropoutMask {
    std::uint64_t seed = 0;
    std::uint64_t offset = 0;
    std::uint64_t keep = 0;  // K, round((1 - rate) * 2**48); 0 drops all, kKeepAll keeps all
};
constexpr std::uint64_t kKeepAll = std::uint64_t{1} << 48;

namespace BNFAST_NUMERICS {

constexpr std::int64_t kGroup = 128;  // elements of a mask that share counters: bits are made for whole groups

// --- the mask ---------------------------------------------------------------------------------------------------

BNFAST_INLINE DropoutMask mask_of(double rate, std::uint64_t seed, std::uint64_t offset) {
    return {seed, offset, static_cast<std::uint64_t>(round_even((1.0 - rate) * static_cast<double>(kKeepAll)))};
}

// u of element k of the eight that one counter serves.
BNFAST_INLINE std::uint32_t first_draw(const PhiloxWords& words, std::uint32_t k) {
    return (words.word[k / 2] >> (k % 2 * 16)) & 0xffffU;
}
// What u is compared with.
BNFAST_INLINE std::uint32_t high_bits(const DropoutMask& mask) { return static_cast<std::uint32_t>(mask.keep >> 32); }
// Whether an element on the tie is kept: v is below the low bits of K.
BNFAST_INLINE bool wins_tie(const DropoutMask& mask, std::uint64_t element) {
    constexpr std::uint64_t kTieStream = std::uint64_t{1} << 63;
    const std::uint32_t v = philox(element >> 2, mask.offset + kTieStream, mask.seed).word[element % 4];
    return v < static_cast<std::uint32_t>(mask.keep);
}
BNFAST_INLINE bool is_kept(const DropoutMask& mask, std::uint64_t element) {
    const std::uint64_t group = element / 128, l = element % 16;
    const std::uint32_t k = static_cast<std::uint32_t>(element / 16 % 8);
    const std::uint32_t u = first_draw(philox(16 * group + l, mask.offset, mask.seed), k);
    return u == high_bits(mask) ? wins_tie(mask, element) : u < high_bits(mask);
}

// --- the results ------------------------------------------------------------------------------------------------

// The factor of the kept elements in inverted dropout.
BNFAST_INLINE double dropout_scale(double rate) { return rate < 1.0 ? 1.0 / (1.0 - rate) : 0.0; }

// Alpha dropout: kept elements become x * scale + shift, the others `dropped` (Klambauer et al. 2017, section "new
// dropout technique"; alpha' is -lambda * alpha of SELU).
struct AlphaDropout {
    double scale, shift, dropped;
};
BNFAST_INLINE AlphaDropout alpha_dropout(double rate) {
    constexpr double kAlphaPrime = -1.7580993408473766;
    const double q = 1.0 - rate, p = rate;
    const double a = q > 0 ? 1.0 / sqrt(q + kAlphaPrime * kAlphaPrime * q * p) : 0.0;
    const double shift = -a * p * kAlphaPrime;
    return {a, shift, a * kAlphaPrime + shift};
}

}  // namespace BNFAST_NUMERICS
}  // namespace bnfast
