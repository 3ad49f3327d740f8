// The SIMD targets built in, and which of them is in use.
#pragma once

#include <string>

#include "cpu/kernels/table.h"

namespace bnfast::cpu {

// Tables of kernels, never destroyed: threads may still be in a call while the program ends.
struct Targets {
    const KernelTable *first, *last;
    const KernelTable* begin() const { return first; }
    const KernelTable* end() const { return last; }
};

// The targets that this machine can run, best first.
Targets usable_targets();

// The table in use: BNFAST_TARGET, what select_target chose, or the best.
const KernelTable& active_target();
// False for a name that is not usable here.
bool select_target(const std::string& name);

}  // namespace bnfast::cpu
