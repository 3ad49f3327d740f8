// What a kernel may ask of the GPU: the primitives that all device code is written over.
//
// A kernel is a struct whose operator() is what one thread does; runtime.h launches it. Compiled by nvcc, the
// primitives are those of CUDA. Everywhere else they come from a header of the same name as here with host_ before it
// (tests/cuda/host_device.h), under which the threads of a kernel run one after the other on the CPU: so the very same
// kernels are tested, and checked by AddressSanitizer, where there is no GPU.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define BNFAST_DEVICE __device__ __forceinline__
// Seldom run or long: copies of it would take registers and minutes. A template, which several objects may have.
#define BNFAST_DEVICE_CALL __device__ __noinline__
#else
#define BNFAST_DEVICE inline
#define BNFAST_DEVICE_CALL inline
#endif

namespace bnfast::cuda {

constexpr int kWarp = 32;          // threads that run together, whose numbers begin with a multiple of this
constexpr int kMostThreads = 256;  // of a block
constexpr int kLeastBlocks = 2;    // of so many threads that a processor is to hold: the limit of registers
constexpr int kVectorBytes = 16;   // the widest access to memory

// N elements as they lie in memory, read and written by one access.
template <class S, int kCount>
struct alignas(sizeof(S) * kCount) Pack {
    S element[kCount];
};

}  // namespace bnfast::cuda

#if defined(__CUDACC__)

namespace bnfast::cuda {

// --- which thread this is ---------------------------------------------------------------------------------------

BNFAST_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
BNFAST_DEVICE int thread_count() { return static_cast<int>(blockDim.x); }  // of the block
BNFAST_DEVICE std::int64_t block_index() { return blockIdx.x; }
BNFAST_DEVICE std::int64_t block_count() { return gridDim.x; }

// --- threads of a block, and of a warp --------------------------------------------------------------------------

// All threads of the block arrive before any goes on, and see what the others wrote before.
BNFAST_DEVICE void barrier() { __syncthreads(); }
BNFAST_DEVICE void warp_barrier() { __syncwarp(); }
// The value of the thread of this warp whose number differs in the bits of `mask`. All threads of the warp call it.
template <class T>
BNFAST_DEVICE T shuffle_xor(T value, int mask) {
    return __shfl_xor_sync(0xffffffffU, value, mask);
}
// Memory that the threads of a block share, of the size given at the launch, at a multiple of 16 bytes.
BNFAST_DEVICE char* shared_memory() {
    extern __shared__ __align__(16) char memory[];
    return memory;
}

// --- threads of different blocks --------------------------------------------------------------------------------

// What this thread wrote before is seen by whoever sees what it writes after.
BNFAST_DEVICE void fence() { __threadfence(); }
// Adds to a counter that blocks share; returns what it was.
BNFAST_DEVICE std::uint32_t atomic_add(std::uint32_t* counter, std::uint32_t value) {
    return atomicAdd(counter, value);
}
// The counter as it is now: what others wrote before they added to it is seen after.
BNFAST_DEVICE std::uint32_t load_acquire(const std::uint32_t* counter) {
    std::uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
    return value;
}
// Reads what other blocks may have written since the kernel began.
BNFAST_DEVICE double load_shared_by_blocks(const double* from) { return __ldcg(from); }
// Lets others go on, while this thread waits for a counter.
BNFAST_DEVICE void pause() { __nanosleep(40); }

// --- memory -----------------------------------------------------------------------------------------------------

// Reads what no thread of the kernel writes, in an access of its size (a power of two up to 16 bytes).
template <class P>
BNFAST_DEVICE P load_global(const void* from) {
    static_assert(sizeof(P) <= kVectorBytes);
    P result;
    if constexpr (sizeof(P) == 16) {
        const int4 raw = __ldg(static_cast<const int4*>(from));
        __builtin_memcpy(&result, &raw, 16);
    } else if constexpr (sizeof(P) == 8) {
        const int2 raw = __ldg(static_cast<const int2*>(from));
        __builtin_memcpy(&result, &raw, 8);
    } else if constexpr (sizeof(P) == 4) {
        const int raw = __ldg(static_cast<const int*>(from));
        __builtin_memcpy(&result, &raw, 4);
    } else {
        static_assert(sizeof(P) == 2);
        const short raw = __ldg(static_cast<const short*>(from));
        __builtin_memcpy(&result, &raw, 2);
    }
    return result;
}
// Writes what will not soon be read again.
template <class P>
BNFAST_DEVICE void store_global(void* to, const P& value) {
    static_assert(sizeof(P) <= kVectorBytes);
    if constexpr (sizeof(P) == 16) {
        int4 raw;
        __builtin_memcpy(&raw, &value, 16);
        __stcs(static_cast<int4*>(to), raw);
    } else if constexpr (sizeof(P) == 8) {
        int2 raw;
        __builtin_memcpy(&raw, &value, 8);
        __stcs(static_cast<int2*>(to), raw);
    } else {
        *static_cast<P*>(to) = value;
    }
}
// Begins to copy from global to shared memory, past the registers where the GPU can (sm_80). The thread that began a
// copy sees its result after wait_for_copies(), other threads after a barrier behind that.
template <class P>
BNFAST_DEVICE void copy_to_shared(void* to_shared, const void* from) {
#if __CUDA_ARCH__ >= 800
    if constexpr (sizeof(P) >= 4) {
        const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to_shared));
        if constexpr (sizeof(P) == 16) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
        } else {
            asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(from),
                         "n"(static_cast<int>(sizeof(P)))
                         : "memory");
        }
        return;
    }
#endif
    *static_cast<P*>(to_shared) = load_global<P>(from);
}
BNFAST_DEVICE void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace bnfast::cuda

#else
#include "host_device.h"
#endif

namespace bnfast::cuda {

// Calls f(i) for the numbers i below `count` that are this thread's among all threads of the launch.
template <class F>
BNFAST_DEVICE void for_each_index(std::int64_t count, const F& f) {
    const std::int64_t step = block_count() * thread_count();
    for (std::int64_t i = block_index() * thread_count() + thread_index(); i < count; i += step) f(i);
}

}  // namespace bnfast::cuda
