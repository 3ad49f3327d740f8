// Which elements of a random stream dropout keeps: plain numbers, the same for every target and device.
#pragma once

#include <cstdint>

namespace bnfast {

// Element i is kept where its random number is below keep / 2**48.
struct DropoutBits {
    std::uint64_t seed = 0;
    std::uint64_t offset = 0;
    std::uint64_t keep = 0;  // round((1 - rate) * 2**48); 0 drops all, kKeepAll keeps all
};
constexpr std::uint64_t kKeepAll = std::uint64_t{1} << 48;

}  // namespace bnfast
