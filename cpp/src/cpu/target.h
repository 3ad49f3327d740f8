// The SIMD targets built in, and which of them is in use.
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

// What no system call tells of a maker's processors: measured.
struct MemoryTraits {
    bool fast_shared_cache;  // it moves several times as many bytes for a core as memory does
    bool fetch_next_group;   // a core that normalises from its own cache has lines to spare for what comes next
};
const MemoryTraits& memory_traits();

}  // namespace bnfast::cpu
