// What lets the code of numerics/ be compiled anywhere: its namespace, and how its functions are marked.
//
// In a kernel's object everything is in the namespace of its SIMD target: an inline function that two targets share
// would become one function in the program, built with the flags of either. Elsewhere it is in bnfast::numerics.
#pragma once

#if defined(BNFAST_TARGET)
#define BNFAST_NUMERICS BNFAST_TARGET
#else
#define BNFAST_NUMERICS numerics
#endif

#if defined(__CUDACC__)  // the same code for a thread of a GPU
#define BNFAST_UNROLL _Pragma("unroll")
#define BNFAST_INLINE __host__ __device__ __forceinline__
#else
#define BNFAST_UNROLL _Pragma("GCC unroll 16")
#define BNFAST_INLINE inline __attribute__((always_inline))
#endif
// Long arithmetic on narrow vectors is called, not inlined: copies in every loop would make compilation several times
// longer, and the call is small beside it.
#if defined(BNFAST_VECTOR_BYTES) && BNFAST_VECTOR_BYTES < 64
#define BNFAST_CALL __attribute__((noinline))
#else
#define BNFAST_CALL BNFAST_INLINE
#endif
