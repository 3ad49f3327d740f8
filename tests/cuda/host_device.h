// The primitives of cuda/device.h where there is no GPU: the threads of a kernel are fibers on the CPU.
#pragma once

#include <cstdint>
#include <cstring>

#include "fibers.h"

namespace bnfast::cuda {

#if defined(__aarch64__)
using HalfOfHost = __fp16;  // g++ 12 has no _Float16 there
#else
using HalfOfHost = _Float16;
#endif

inline int thread_index() { return host::here->thread; }
inline int thread_count() { return host::here->threads; }
inline std::int64_t block_index() { return host::here->block; }
inline std::int64_t block_count() { return host::here->blocks; }

inline void barrier() { host::wait_for_block(); }
inline void warp_barrier() { host::wait_for_warp(); }
template <class T>
T shuffle_xor(T value, int mask) {
    static_assert(sizeof(T) <= sizeof(std::uint64_t));
    std::uint64_t number = 0;
    std::memcpy(&number, &value, sizeof(T));
    number = host::exchange(number, mask);
    std::memcpy(&value, &number, sizeof(T));
    return value;
}
inline char* shared_memory() { return host::here->shared; }

inline void fence() {}  // one thread of the CPU sees all that it wrote
inline std::uint32_t atomic_add(std::uint32_t* counter, std::uint32_t value) {
    const std::uint32_t before = *counter;
    *counter = before + value;
    host::made_progress();
    return before;
}
inline std::uint32_t load_acquire(const std::uint32_t* counter) {
    return *static_cast<const volatile std::uint32_t*>(counter);
}
inline double load_shared_by_blocks(const double* from) { return *from; }
inline void pause() { host::pause(); }

template <class P>
P load_global(const void* from) {
    static_assert(sizeof(P) == 2 || sizeof(P) == 4 || sizeof(P) == 8 || sizeof(P) == 16);
    host::check_load("load_global", from, sizeof(P));
    P result;
    std::memcpy(&result, from, sizeof(P));
    return result;
}
template <class P>
void store_global(void* to, const P& value) {
    static_assert(sizeof(P) <= kVectorBytes);
    host::check_store("store_global", to, sizeof(P));
    std::memcpy(to, &value, sizeof(P));
}
template <class P>
void copy_to_shared(void* to_shared, const void* from) {
    static_assert(sizeof(P) == 2 || sizeof(P) == 4 || sizeof(P) == 8 || sizeof(P) == 16);
    host::begin_copy(to_shared, from, sizeof(P));
}
inline void wait_for_copies() { host::finish_copies(); }

}  // namespace bnfast::cuda
