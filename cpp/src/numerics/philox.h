// Philox4x32-10, a generator of random numbers that is a function of a counter and a key (Salmon, Moraes, Dror & Shaw
// 2011).
#pragma once

#include <cstdint>

#include "numerics/portable.h"

namespace bnfast::BNFAST_NUMERICS {

constexpr std::uint32_t kPhiloxMultiplier0 = 0xD2511F53U, kPhiloxMultiplier1 = 0xCD9E8D57U;
constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9U, kPhiloxWeyl1 = 0xBB67AE85U;
constexpr int kPhiloxRounds = 10;

struct PhiloxWords {
    std::uint32_t word[4];
};

// The counter's low and high half, and the seed as the key.
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

}  // namespace bnfast::BNFAST_NUMERICS
