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

}  // namespace bnfast::cpu
