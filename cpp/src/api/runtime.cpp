// Threads, SIMD targets and caches: checked questions to the machine that runs the program.
#include "bnfast/runtime.h"

#include "api/checks.h"
#include "problem/backend.h"
#include "problem/host.h"

namespace bnfast {

const char* version() { return BNFAST_VERSION; }

int num_threads() { return host().num_threads(); }

void set_num_threads(std::int64_t n) {
    constexpr std::int64_t kMost = 1 << 16;
    if (n < 1 || n > kMost) {
        api::fail("set_num_threads", "n is " + std::to_string(n) + ", expected 1 .. " + std::to_string(kMost));
    }
    host().set_num_threads(static_cast<int>(n));
}

int usable_cpus() { return host().usable_cpus(); }
const char* threading_name() { return host().threading_name(); }

std::vector<const char*> targets() { return host().targets(); }
const char* active_target() { return host().active_target(); }

void select_target(const std::string& name) {
    if (host().select_target(name)) return;
    std::string names;
    for (const char* const each : targets()) names += (names.empty() ? "'" : ", '") + std::string(each) + "'";
    api::fail("use_target", "name is '" + name + "', expected one of " + names);
}

std::int64_t private_cache_bytes() { return host().private_cache_bytes(); }
std::int64_t shared_cache_bytes() { return host().shared_cache_bytes(); }
bool shared_cache_is_near() { return host().shared_cache_is_near(); }

void stream_sum(float* dst, const float* const* sources, int num_sources, std::int64_t n, int threads) {
    const char* const operation = "stream_sum";
    if (n < 0) api::fail(operation, "n is " + std::to_string(n) + ", expected a number >= 0");
    if (num_sources < 1 || num_sources > kMostStreamSources) {
        api::fail(operation, "num_sources is " + std::to_string(num_sources) + ", expected 1 .. " +
                                 std::to_string(kMostStreamSources));
    }
    if (threads < 1) api::fail(operation, "threads is " + std::to_string(threads) + ", expected 1 or more");
    api::check_pointer(operation, "sources", static_cast<const void*>(sources));
    if (n > 0) api::check_pointer(operation, "dst", dst);
    for (int k = 0; n > 0 && k < num_sources; ++k) api::check_pointer(operation, "a source", sources[k]);
    host().stream_sum(dst, sources, num_sources, n, threads);
}

std::vector<std::pair<std::string, std::int64_t>> thresholds() { return host().thresholds(); }
void randomise_schedule(std::uint64_t seed) { host().randomise_schedule(seed); }
void restore_schedule() { host().restore_schedule(); }

namespace {
void set_backend_of(const char* operation, Device::Type borrower, const Backend* backend) {
    if (borrower != Device::Type::kCpu && borrower != Device::Type::kCuda) {
        api::fail(operation, "borrower is number " + std::to_string(static_cast<int>(borrower)) +
                                 ", expected one of Device::Type");
    }
    set_backend(borrower, backend);
}
}  // namespace

void lend_backend(Device::Type lender, Device::Type borrower) {
    const char* const operation = "lend_backend";
    set_backend_of(operation, borrower, &api::check_device(operation, "lender", {lender}));
}
void restore_backend(Device::Type borrower) { set_backend_of("restore_backend", borrower, nullptr); }

}  // namespace bnfast
