// Chooses the SIMD target at run time, from what the CPU and the operating system support.
#include "cpu/target.h"

#include <atomic>
#include <cstdlib>
#include <iterator>

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

#define BNFAST_NAME(name) #name,
constexpr const char* kBuiltTargets[] = {BNFAST_FOR_EACH_TARGET(BNFAST_NAME)};
#undef BNFAST_NAME

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
        return wanted != nullptr ? wanted : usable_targets().first;
    }()};
    return table;
}

}  // namespace

Targets usable_targets() {
    struct Found {
        KernelTable tables[std::size(kBuiltTargets)];
        int count = 0;
    };
    static const Found found = [] {
        Found result;
#define BNFAST_ADD(name) \
    if (usable(#name)) result.tables[result.count++] = bnfast::name::table();
        BNFAST_FOR_EACH_TARGET(BNFAST_ADD)
#undef BNFAST_ADD
        return result;
    }();
    return {found.tables, found.tables + found.count};
}

const KernelTable& active_target() { return *active().load(std::memory_order_relaxed); }

bool select_target(const std::string& name) {
    const KernelTable* table = find(name);
    if (table != nullptr) active().store(table, std::memory_order_relaxed);
    return table != nullptr;
}

}  // namespace bnfast::cpu
