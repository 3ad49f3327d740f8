// Adds arrays as fast as memory allows: what benchmarks compare with.
#include "cpu/stream.h"

#include <algorithm>

#include "bnfast/runtime.h"
#include "cpu/parallel.h"
#include "cpu/target.h"

namespace bnfast::cpu {

void stream_sum(float* dst, const float* const* sources, int num_sources, std::int64_t n, int threads) {
    constexpr std::int64_t kChunk = 1 << 18;  // elements
    parallel_for((n + kChunk - 1) / kChunk, threads, [&](std::int64_t task) {
        const std::int64_t begin = task * kChunk, size = std::min(kChunk, n - begin);
        const float* shifted[kMostStreamSources];
        for (int k = 0; k < num_sources; ++k) shifted[k] = sources[k] + begin;
        active_target().stream_sum(dst + begin, shifted, num_sources, size);
    });
}

}  // namespace bnfast::cpu
