// Adds arrays as fast as memory allows: what benchmarks compare with.
#pragma once

#include <cstdint>

namespace bnfast::cpu {

// dst[i] = sum over the sources, written past the caches by the threads in use.
void stream_sum(float* dst, const float* const* sources, int num_sources, std::int64_t n, int threads);

}  // namespace bnfast::cpu
