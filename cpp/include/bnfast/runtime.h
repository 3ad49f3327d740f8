// The library's version, threads and SIMD targets.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bnfast/export.h"
#include "bnfast/tensor.h"

namespace bnfast {

BNFAST_API const char* version();

BNFAST_API int num_threads();
// n >= 1; ValueError otherwise.
BNFAST_API void set_num_threads(std::int64_t n);
BNFAST_API int usable_cpus();
BNFAST_API const char* threading_name();

// The names of the SIMD targets that this machine can run, best first.
BNFAST_API std::vector<const char*> targets();
BNFAST_API const char* active_target();
// ValueError where the name is not one of targets().
BNFAST_API void select_target(const std::string& name);

// The cache that a core has to itself. It and what follows decide how work is cut, never a result.
BNFAST_API std::int64_t private_cache_bytes();
// The cache that cores share, 0 where there is none, and whether it is near: faster than memory to each of them.
BNFAST_API std::int64_t shared_cache_bytes();
BNFAST_API bool shared_cache_is_near();

// dst[i] = sum over at most kMostStreamSources sources of n numbers each, written past the caches: measures the memory
// bandwidth that bench/ calls the floor.
constexpr int kMostStreamSources = 8;
BNFAST_API void stream_sum(float* dst, const float* const* sources, int num_sources, std::int64_t n, int threads);

// For tests. From now on the way in which a call is cut into work is drawn at random, from this seed, until
// restore_schedule(): results are the same.
BNFAST_API void randomise_schedule(std::uint64_t seed);
BNFAST_API void restore_schedule();
// For tests. From now on calls on tensors of `borrower` go to the backend of `lender`, until restore_backend(borrower):
// so the CPU can stand in for a GPU, and kernels of a GPU that are compiled for the host can take NumPy's arrays.
// ValueError where the lender has no backend.
BNFAST_API void lend_backend(Device::Type lender, Device::Type borrower);
BNFAST_API void restore_backend(Device::Type borrower);
// The sizes at which another way of computing begins, by name: tests use them to try both sides.
BNFAST_API std::vector<std::pair<std::string, std::int64_t>> thresholds();

}  // namespace bnfast
