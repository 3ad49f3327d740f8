// The arithmetic that results are defined in: rounding to nearest, and no denormal number taken for zero.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bnfast::cpu {

// While it lives, the thread computes so, whatever its program asked for (torch.set_flush_denormal, -ffast-math in some
// library). Each thread that takes part in a call has one: results would depend on who computed what.
class StandardArithmetic {
  public:
#if defined(__x86_64__)
    StandardArithmetic() : before_(_mm_getcsr()) {
        if ((before_ & ~kFlags) != kStandard) _mm_setcsr(kStandard);
    }
    ~StandardArithmetic() {
        if ((before_ & ~kFlags) != kStandard) _mm_setcsr(before_);
    }

  private:
    static constexpr unsigned kFlags = 0x3f;       // exceptions seen so far
    static constexpr unsigned kStandard = 0x1f80;  // all exceptions masked
    unsigned before_;
#elif defined(__aarch64__)
    StandardArithmetic() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
        if (before_ != 0) __asm__ volatile("msr fpcr, %0" : : "r"(std::uint64_t{0}));
    }
    ~StandardArithmetic() {
        if (before_ != 0) __asm__ volatile("msr fpcr, %0" : : "r"(before_));
    }

  private:
    std::uint64_t before_;
#else
    StandardArithmetic() {}
    ~StandardArithmetic() {}
#endif
  public:
    StandardArithmetic(const StandardArithmetic&) = delete;
    StandardArithmetic& operator=(const StandardArithmetic&) = delete;
};

}  // namespace bnfast::cpu
