// Chooses the SIMD target at run time, from what the CPU and the operating system support, and asks after the caches.
#include "cpu/target.h"

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "bnfast_targets.h"  // generated: BNFAST_FOR_EACH_TARGET(X), best first

#define BNFAST_DECLARE(name)           \
    namespace bnfast {                 \
    namespace name {                   \
    cpu::KernelTable table() noexcept; \
    }                                  \
    }
BNFAST_FOR_EACH_TARGET(BNFAST_DECLARE)
#undef BNFAST_DECLARE

namespace bnfast::cpu {
namespace {

#if defined(__x86_64__)
// cpuid says what the CPU has, xgetbv which registers the operating system saves. (__builtin_cpu_supports does not link
// into a shared object under every compiler.)
struct X86Features {
    bool v3 = false, v4 = false;
    X86Features() {
        unsigned a = 0, b = 0, c = 0, d = 0;
        if (!__get_cpuid(1, &a, &b, &c, &d)) return;
        constexpr unsigned kFma = 1U << 12, kMovbe = 1U << 22, kOsxsave = 1U << 27, kAvx = 1U << 28, kF16c = 1U << 29;
        const bool leaf1 = (c & (kFma | kMovbe | kOsxsave | kAvx | kF16c)) == (kFma | kMovbe | kOsxsave | kAvx | kF16c);
        if (!leaf1) return;
        unsigned low = 0, high = 0;
        __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        constexpr unsigned kBmi1 = 1U << 3, kAvx2 = 1U << 5, kBmi2 = 1U << 8;
        constexpr unsigned kAvx512 = 1U << 16 | 1U << 17 | 1U << 28 | 1U << 30 | 1U << 31;  // F, DQ, CD, BW, VL
        const unsigned leaf7 = b;
        constexpr unsigned kLzcnt = 1U << 5;
        const bool lzcnt = __get_cpuid(0x80000001U, &a, &b, &c, &d) && (c & kLzcnt) != 0;
        constexpr unsigned kYmmState = 0x6, kZmmState = 0xe6;
        v3 = lzcnt && (leaf7 & (kBmi1 | kAvx2 | kBmi2)) == (kBmi1 | kAvx2 | kBmi2) && (low & kYmmState) == kYmmState;
        v4 = v3 && (leaf7 & kAvx512) == kAvx512 && (low & kZmmState) == kZmmState;
    }
};
#endif

bool usable(const std::string& name) {
#if defined(__x86_64__)
    static const X86Features features;
    if (name == "x86_64_v4") return features.v4;
    if (name == "x86_64_v3") return features.v3;
#endif
    (void)name;
    return true;  // the architecture's baseline
}

const KernelTable* find(const std::string& name) {
    for (const KernelTable& table : usable_targets()) {
        if (name == table.name) return &table;
    }
    return nullptr;
}

std::atomic<const KernelTable*>& active() {
    static std::atomic<const KernelTable*> table{[] {
        const char* forced = std::getenv("BNFAST_TARGET");
        const KernelTable* wanted = forced != nullptr ? find(forced) : nullptr;
        return wanted != nullptr ? wanted : &usable_targets().front();
    }()};
    return table;
}

// The size of a cache of CPU 0; `usual` where the system does not tell.
std::int64_t cache_bytes(int level, int name, std::int64_t usual) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(level) + "/size");  // "2048K"
    std::int64_t kibibytes = 0;
    if (file >> kibibytes && kibibytes > 0) return kibibytes * 1024;
    const long reported = sysconf(name);
    return reported > 0 ? static_cast<std::int64_t>(reported) : usual;
}

// AMD's cores have an L3 beside them (Zen 4: it moves three times as many bytes as memory). On Intel's servers L3 is
// spread over the chip and to a core as far as memory (Granite Rapids: 29 GB/s either way). Others are taken to be like
// those, unmeasured. BNFAST_L3, "near" or "far", overrides that.
bool known_to_be_near() {
    if (const char* const text = std::getenv("BNFAST_L3")) {
        if (std::strcmp(text, "near") == 0) return true;
        if (std::strcmp(text, "far") == 0) return false;
    }
#if defined(__x86_64__)
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kAuth = 0x68747541;  // the first four letters of "AuthenticAMD"
    return __get_cpuid(0, &a, &b, &c, &d) != 0 && b == kAuth;
#else
    return false;
#endif
}

}  // namespace

const std::vector<KernelTable>& usable_targets() {
    // Never destroyed: threads may still be in a call while the program ends.
    static const std::vector<KernelTable>& tables = *[] {
        auto* const result = new std::vector<KernelTable>;
#define BNFAST_ADD(name) \
    if (usable(#name)) result->push_back(bnfast::name::table());
        BNFAST_FOR_EACH_TARGET(BNFAST_ADD)
#undef BNFAST_ADD
        return result;
    }();
    return tables;
}

const KernelTable& active_target() { return *active().load(std::memory_order_relaxed); }

bool select_target(const std::string& name) {
    const KernelTable* table = find(name);
    if (table != nullptr) active().store(table, std::memory_order_relaxed);
    return table != nullptr;
}

std::int64_t private_cache_bytes() {
    static const std::int64_t bytes = cache_bytes(2, _SC_LEVEL2_CACHE_SIZE, 1 << 20);
    return bytes;
}

std::int64_t shared_cache_bytes() {
    static const std::int64_t bytes = cache_bytes(3, _SC_LEVEL3_CACHE_SIZE, 0);
    return bytes;
}

bool shared_cache_is_near() {
    static const bool near = known_to_be_near();
    return near;
}

}  // namespace bnfast::cpu
