// How a problem is cut: the blocks of the summation tree (by geometry alone), and the work of the threads (by caches).
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/problem.h"
#include "cpu/target.h"

namespace bnfast::cpu {

constexpr std::int64_t kBlockElements = 4096;  // of a channel of planes; four pages of float32, in L1
constexpr std::int64_t kBlockRows = 512;
constexpr std::int64_t kSerialElements = 32768;  // waking a thread costs more than this much work
constexpr std::int64_t kLaneElements = 16;

inline Blocks cut_blocks(const Geometry& geometry) {
    Blocks blocks;
    if (geometry.outer == 0 || geometry.inner == 0) return blocks;
    if (geometry.rows) {
        blocks.outer_per_block = kBlockRows;
    } else if (geometry.inner > kBlockElements) {
        const std::int64_t pieces = (geometry.inner + kBlockElements - 1) / kBlockElements;
        const std::int64_t piece = (geometry.inner + pieces - 1) / pieces;
        blocks.piece = (piece + kLaneElements - 1) / kLaneElements * kLaneElements;
        blocks.pieces = (geometry.inner + blocks.piece - 1) / blocks.piece;
        blocks.count = geometry.outer * blocks.pieces;
        return blocks;
    } else {
        blocks.outer_per_block = std::max<std::int64_t>(1, kBlockElements / geometry.inner);
    }
    blocks.count = (geometry.outer + blocks.outer_per_block - 1) / blocks.outer_per_block;
    return blocks;
}

// The threads that are worth waking for a call.
inline int useful_threads(const Problem& problem) {
    const std::int64_t by_size = problem.elements() / (kSerialElements / 2);
    return static_cast<int>(std::clamp<std::int64_t>(by_size, 1, num_threads()));
}

// Outputs larger than the private caches are written past them: the lines need not be read first.
inline bool worth_streaming(const Problem& problem) {
    return problem.elements() * item_size(problem.dtype) > private_cache_bytes() * num_threads() / 2;
}

// The channels that one task measures and then normalises, while they are in its core's cache as far as they fit. 0:
// the tensor is swept twice by all threads, because its channels are too few, or lie in rows: a strip of some channels
// of all rows is spread over few sets of the cache where the stride is a power of two, and does not stay there.
inline std::int64_t channels_per_group(const Problem& problem, int operands, int threads) {
    const Geometry& g = problem.geometry;
    const std::int64_t channel_bytes = g.outer * g.inner * item_size(problem.dtype) * operands;
    const std::int64_t budget = private_cache_bytes() * 3 / 4;
    if (threads == 1 && channel_bytes * g.channels <= budget) return g.channels;
    if (g.rows || g.channels < threads || channel_bytes == 0) return 0;
    // Wide enough that every run of memory is several pages long, narrow enough that all threads have several groups.
    constexpr std::int64_t kLongRun = 65536;
    const std::int64_t wanted = std::min(
        {kLongRun / (g.inner * item_size(problem.dtype)), budget / 2 / channel_bytes, g.channels / (4 * threads)});
    return std::max<std::int64_t>(wanted, 1);
}

}  // namespace bnfast::cpu
