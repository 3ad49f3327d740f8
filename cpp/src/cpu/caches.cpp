// What is known of the machine's caches: sizes from the operating system, and how far the shared one is from a core.
#include "cpu/caches.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace bnfast::cpu {
namespace {

// The size of the cache of a level, 2 or 3, of CPU 0; `usual` where the system does not tell.
std::int64_t cache_bytes(int level, std::int64_t usual) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(level) + "/size");  // "2048K"
    std::int64_t kibibytes = 0;
    if (file >> kibibytes && kibibytes > 0) return kibibytes * 1024;
#if defined(_SC_LEVEL3_CACHE_SIZE)  // of glibc
    const long reported = sysconf(level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE);
    if (reported > 0) return reported;
#endif
    return usual;
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

std::int64_t private_cache_bytes() {
    static const std::int64_t bytes = cache_bytes(2, 1 << 20);
    return bytes;
}

std::int64_t shared_cache_bytes() {
    static const std::int64_t bytes = cache_bytes(3, 0);
    return bytes;
}

bool shared_cache_is_near() {
    static const bool near = known_to_be_near();
    return near;
}

}  // namespace bnfast::cpu
