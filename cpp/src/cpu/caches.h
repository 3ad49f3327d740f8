// What is known of the machine's caches.
#pragma once

#include <cstdint>

namespace bnfast::cpu {

// Bytes of the cache that one core has to itself (L2).
std::int64_t private_cache_bytes();
// Bytes of the cache that cores share (L3), 0 where there is none.
std::int64_t shared_cache_bytes();
// Whether it is near: faster than memory to each core. No system call tells.
bool shared_cache_is_near();

}  // namespace bnfast::cpu
