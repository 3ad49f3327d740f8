// The C face of the library's version, its threads and its SIMD targets.
#include "bnfast/runtime.h"

#include <vector>

#include "c/arguments.h"
#include "c/status.h"

using namespace bnfast::c;

int32_t bnfast_abi_version() { return BNFAST_ABI_VERSION; }
const char* bnfast_version() { return bnfast::version(); }

int32_t bnfast_num_threads() { return bnfast::num_threads(); }
bnfast_status bnfast_set_num_threads(int64_t n) {
    return status_of("set_num_threads", [&] { bnfast::set_num_threads(n); });
}
int32_t bnfast_usable_cpus() { return bnfast::usable_cpus(); }
const char* bnfast_threading_name() { return bnfast::threading_name(); }

int32_t bnfast_num_targets() {
    std::size_t count = 0;
    status_of("num_targets", [&] { count = bnfast::targets().size(); });
    return static_cast<int32_t>(count);
}
const char* bnfast_target_name(int32_t index) {
    const char* name = nullptr;
    status_of("target_name", [&] {
        const std::vector<const char*> names = bnfast::targets();
        if (index >= 0 && index < static_cast<int32_t>(names.size())) name = names[static_cast<std::size_t>(index)];
    });
    return name;
}
const char* bnfast_active_target() { return bnfast::active_target(); }
bnfast_status bnfast_select_target(const char* name) {
    const char* const operation = "select_target";
    return status_of(operation, [&] {
        check_pointer(operation, "name", name);
        bnfast::select_target(name);
    });
}
