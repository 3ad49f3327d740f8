// The blocks of the summation tree on the CPU: how many elements each has, and memory for their results.
#include "cpu/blocks.h"

#include "numerics/blocks.h"

namespace bnfast::cpu {

BoundProblem channel_range(const BoundProblem& problem, std::int64_t begin, std::int64_t end) {
    BoundProblem part = problem;
    part.geometry.channels = end - begin;
    part.first_channel += begin;
    part.along.first += begin;
    const std::int64_t item = item_size(problem.dtype);
    for (Operand BoundProblem::* operand : kOperands) {
        Operand& tensor = part.*operand;
        if (tensor.is_there()) tensor.data = static_cast<char*>(tensor.data) + begin * tensor.channel_stride * item;
    }
    return part;
}

std::int64_t count_bits(const std::uint8_t* row, std::int64_t begin, std::int64_t end) {
    std::int64_t count = 0;
    for (std::int64_t i = begin; i < end; ++i) count += (row[i >> 3] >> (i & 7)) & 1;
    return count;
}

BlockCounts count_blocks(const BoundProblem& problem, Scratch& scratch) {
    const Geometry& g = problem.geometry;
    BlockCounts result;
    result.blocks = numerics::cut_blocks(g);
    double* const each = scratch.take<double>(result.blocks.count + 1);
    result.each = each;
    result.total = 0;
    for (std::int64_t b = 0; b < result.blocks.count; ++b) {
        const BlockSpan span = numerics::span_of(g, result.blocks, b);
        std::int64_t count = 0;
        if (!problem.where.are_there()) {
            count = (span.outer_end - span.outer_begin) * (span.inner_end - span.inner_begin);
        } else if (g.rows) {
            count = count_bits(problem.where.bits, span.outer_begin, span.outer_end);
        } else {
            for (std::int64_t o = span.outer_begin; o < span.outer_end; ++o) {
                count += count_bits(problem.where.bits + o * problem.where.pitch, span.inner_begin, span.inner_end);
            }
        }
        each[b] = static_cast<double>(count);
        result.total += each[b];
    }
    return result;
}

}  // namespace bnfast::cpu
