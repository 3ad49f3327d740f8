// The blocks of the summation tree on the CPU: how many elements each has, and memory for their results.
#pragma once

#include "cpu/bound_problem.h"
#include "cpu/scratch.h"

namespace bnfast::cpu {

inline std::int64_t padded(std::int64_t channels) { return channels + kPadding; }

// The problem of channels [begin, end) alone.
BoundProblem channel_range(const BoundProblem& problem, std::int64_t begin, std::int64_t end);

// The bits of `where` that are set in [begin, end) of a row of them.
std::int64_t count_bits(const std::uint8_t* row, std::int64_t begin, std::int64_t end);

// The elements of each block of a channel that take part, and of all together.
struct BlockCounts {
    Blocks blocks;
    const double* each;
    double total;
};
BlockCounts count_blocks(const BoundProblem& problem, Scratch& scratch);

// Block results are kept as [block][channel], so that merging runs over channels.
inline BlockMoments take_block_moments(Scratch& scratch, std::int64_t blocks, std::int64_t pitch) {
    return {scratch.take<double>(blocks * pitch), scratch.take<double>(blocks * pitch),
            scratch.take<double>(blocks * pitch)};
}
inline BlockSums take_block_sums(Scratch& scratch, std::int64_t blocks, std::int64_t pitch) {
    return {scratch.take<double>(blocks * pitch), scratch.take<double>(blocks * pitch)};
}

}  // namespace bnfast::cpu
