// Division of indices by a number that all threads divide by: a multiplication and a shift.
#pragma once

#include "cuda/device.h"
#include "numerics/portable.h"

namespace bnfast::cuda {

// The quotient of numbers of any size.
template <class T>
BNFAST_DEVICE_CALL T long_quotient(T n, T divisor) {
    return n / divisor;
}

// For 32-bit dividends (Granlund & Montgomery 1994, section 4); larger ones are divided as they are.
class Divider {
  public:
    Divider() = default;
    explicit Divider(std::int64_t divisor) : divisor_(divisor < 1 ? 1 : divisor) {
        if (divisor_ > kMost) return;
        while ((std::int64_t{1} << shift_) < divisor_) ++shift_;
        const std::uint64_t power = std::uint64_t{1} << 32, d = static_cast<std::uint64_t>(divisor_);
        multiplier_ = static_cast<std::uint32_t>(power * ((std::uint64_t{1} << shift_) - d) / d + 1);
    }
    BNFAST_INLINE std::int64_t divisor() const { return divisor_; }
    BNFAST_DEVICE std::int64_t quotient(std::int64_t n) const {
        if (divisor_ == 1) return n;
        if (n > kMost || divisor_ > kMost) return long_quotient(n, divisor_);
        const std::uint64_t small = static_cast<std::uint64_t>(n);
        return static_cast<std::int64_t>((((small * multiplier_) >> 32) + small) >> shift_);
    }

  private:
    static constexpr std::int64_t kMost = 0x7fffffff;
    std::int64_t divisor_ = 1;
    std::uint32_t multiplier_ = 1;
    int shift_ = 0;
};

struct Divided {
    std::int64_t quotient, remainder;
};
BNFAST_DEVICE Divided divide(std::int64_t n, const Divider& divider) {
    const std::int64_t quotient = divider.quotient(n);
    return {quotient, n - quotient * divider.divisor()};
}

}  // namespace bnfast::cuda
