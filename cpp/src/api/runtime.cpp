// Threads and SIMD targets: the public names of what the CPU backend knows.
#include "bnfast/runtime.h"

#include "api/checks.h"
#include "cpu/batch_norm.h"
#include "cpu/parallel.h"
#include "cpu/target.h"

namespace bnfast {

int num_threads() { return cpu::num_threads(); }

void set_num_threads(std::int64_t n) {
    constexpr std::int64_t kMost = 1 << 16;
    if (n < 1 || n > kMost) {
        api::fail("set_num_threads", "n is " + std::to_string(n) + ", expected 1 .. " + std::to_string(kMost));
    }
    cpu::set_num_threads(static_cast<int>(n));
}

int usable_cpus() { return cpu::usable_cpus(); }
const char* threading_name() { return cpu::threading_name(); }

std::vector<std::string> targets() {
    std::vector<std::string> names;
    for (const cpu::KernelTable& table : cpu::usable_targets()) names.emplace_back(table.name);
    return names;
}

std::string active_target() { return cpu::active_target().name; }

void select_target(const std::string& name) {
    if (cpu::select_target(name)) return;
    std::string names;
    for (const std::string& each : targets()) names += (names.empty() ? "'" : ", '") + each + "'";
    api::fail("use_target", "name is '" + name + "', expected one of " + names);
}

std::int64_t private_cache_bytes() { return cpu::private_cache_bytes(); }
std::int64_t shared_cache_bytes() { return cpu::shared_cache_bytes(); }
bool shared_cache_is_near() { return cpu::shared_cache_is_near(); }

void stream_sum(float* dst, const float* const* sources, int num_sources, std::int64_t n, int threads) {
    cpu::stream_sum(dst, sources, num_sources, n, threads);
}

}  // namespace bnfast
