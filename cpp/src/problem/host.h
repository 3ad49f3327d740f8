// The machine that runs the program: its threads, SIMD targets and caches, as functions that api/ can call.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bnfast {

// bnfast/runtime.h says what each means. Arguments were checked before.
struct Host {
    int (*num_threads)();
    void (*set_num_threads)(int n);
    int (*usable_cpus)();
    const char* (*threading_name)();
    std::vector<const char*> (*targets)();
    const char* (*active_target)();
    bool (*select_target)(const std::string& name);  // false where it is not one of targets()
    std::int64_t (*private_cache_bytes)();
    std::int64_t (*shared_cache_bytes)();
    bool (*shared_cache_is_near)();
    void (*stream_sum)(float* dst, const float* const* sources, int num_sources, std::int64_t n, int threads);
    std::vector<std::pair<std::string, std::int64_t>> (*thresholds)();
    void (*randomise_schedule)(std::uint64_t seed);
    void (*restore_schedule)();
};
const Host& host();

}  // namespace bnfast
