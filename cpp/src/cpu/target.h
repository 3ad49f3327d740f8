// The SIMD targets built in, and which of them is in use; what is known of the caches.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels/table.h"

namespace bnfast::cpu {

// The targets that this machine can run, best first.
const std::vector<KernelTable>& usable_targets();

// The table in use: BNFAST_TARGET, what select_target chose, or the best.
const KernelTable& active_target();
// False for a name that is not usable here.
bool select_target(const std::string& name);

// Bytes of the cache that one core has to itself (L2).
std::int64_t private_cache_bytes();
// Bytes of the cache that cores share (L3), 0 where there is none.
std::int64_t shared_cache_bytes();
// Whether it is near: faster than memory to each core. No system call tells.
bool shared_cache_is_near();

}  // namespace bnfast::cpu
