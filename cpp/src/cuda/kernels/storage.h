// Element types as they lie in memory, and the types that they are computed in.
#pragma once

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "cuda/device.h"

namespace bnfast::cuda {

struct Half {
    std::uint16_t bits;
};
struct BFloat16 {
    std::uint16_t bits;
};

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

// --- decode: exact ----------------------------------------------------------------------------------------------

BNFAST_DEVICE float decode(float a) { return a; }
BNFAST_DEVICE double decode(double a) { return a; }
BNFAST_DEVICE float decode(BFloat16 a) {
    const std::uint32_t bits = static_cast<std::uint32_t>(a.bits) << 16;
    float result;
    __builtin_memcpy(&result, &bits, sizeof result);
    return result;
}
BNFAST_DEVICE float decode(Half a) {
#if defined(__CUDACC__)
    return __half2float(__ushort_as_half(a.bits));
#else
    HalfOfHost half;
    __builtin_memcpy(&half, &a, sizeof half);
    return static_cast<float>(half);
#endif
}

// --- encode: rounds to nearest, ties to even --------------------------------------------------------------------

template <class S>
BNFAST_DEVICE S encode(Compute<S> a) {
    if constexpr (sizeof(S) >= 4) {
        return a;
    } else {
        S result;
#if defined(__CUDACC__)
        if constexpr (__is_same(S, Half)) {
            result.bits = __half_as_ushort(__float2half_rn(a));
        } else {
            result.bits = __bfloat16_as_ushort(__float2bfloat16_rn(a));
        }
#else
        if constexpr (__is_same(S, Half)) {
            const HalfOfHost half = static_cast<HalfOfHost>(a);
            __builtin_memcpy(&result, &half, sizeof half);
        } else {
            std::uint32_t bits;
            __builtin_memcpy(&bits, &a, sizeof bits);
            const std::uint32_t rounded = bits + 0x7fffU + ((bits >> 16) & 1);
            result.bits = static_cast<std::uint16_t>((a == a ? rounded : bits | 0x400000U) >> 16);
        }
#endif
        return result;
    }
}

}  // namespace bnfast::cuda
