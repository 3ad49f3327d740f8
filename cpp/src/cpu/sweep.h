// What forward and backward on the CPU share: parts of a problem, blocks and their counts, sweeps over tensors.
#pragma once

#include <algorithm>

#include "cpu/batch_norm.h"
#include "cpu/plan.h"
#include "cpu/scratch.h"

namespace bnfast::cpu {

inline std::int64_t padded(std::int64_t channels) { return channels + kPadding; }

inline Operand from_channel(const Operand& operand, std::int64_t channel, DType dtype) {
    Operand result = operand;
    if (result.data != nullptr) {
        result.data = static_cast<char*>(result.data) + channel * operand.channel_stride * item_size(dtype);
    }
    return result;
}

// The problem of channels [begin, end) alone.
inline Problem channel_range(const Problem& problem, std::int64_t begin, std::int64_t end) {
    Problem part = problem;
    part.geometry.channels = end - begin;
    part.first_channel = begin;
    for (Operand Problem::* operand :
         {&Problem::x, &Problem::residual, &Problem::y, &Problem::dy, &Problem::dx, &Problem::dresidual}) {
        part.*operand = from_channel(problem.*operand, begin, problem.dtype);
    }
    return part;
}

inline ChannelStatistics from_channel(const ChannelStatistics& s, std::int64_t channel) {
    return {s.count + channel,  s.mean + channel,  s.mean_low + channel, s.m2 + channel,
            s.invstd + channel, s.gamma + channel, s.beta + channel};
}

inline const ElementKernels& kernels_of(const Problem& problem) {
    return active_target().elements[static_cast<int>(problem.dtype)];
}

// --- blocks -----------------------------------------------------------------------------------------------------

inline std::int64_t count_bits(const std::uint8_t* row, std::int64_t begin, std::int64_t end) {
    std::int64_t count = 0;
    for (std::int64_t i = begin; i < end; ++i) count += (row[i >> 3] >> (i & 7)) & 1;
    return count;
}

// The elements of each block of a channel that take part; returns their sum.
inline double count_elements(const Problem& problem, const Blocks& blocks, double* counts) {
    const Geometry& g = problem.geometry;
    double total = 0;
    for (std::int64_t b = 0; b < blocks.count; ++b) {
        std::int64_t count = 0;
        const std::int64_t outer_begin = blocks.pieces > 1 ? b / blocks.pieces : b * blocks.outer_per_block;
        const std::int64_t outer_end =
            blocks.pieces > 1 ? outer_begin + 1 : std::min(g.outer, outer_begin + blocks.outer_per_block);
        const std::int64_t inner_begin = blocks.pieces > 1 ? (b % blocks.pieces) * blocks.piece : 0;
        const std::int64_t inner_end = blocks.pieces > 1 ? std::min(g.inner, inner_begin + blocks.piece) : g.inner;
        if (problem.where.bits == nullptr) {
            count = (outer_end - outer_begin) * (inner_end - inner_begin);
        } else if (g.rows) {
            count = count_bits(problem.where.bits, outer_begin, outer_end);
        } else {
            for (std::int64_t o = outer_begin; o < outer_end; ++o) {
                count += count_bits(problem.where.bits + o * problem.where.pitch, inner_begin, inner_end);
            }
        }
        counts[b] = static_cast<double>(count);
        total += counts[b];
    }
    return total;
}

struct BlockCounts {
    Blocks blocks;
    const double* each;
    double total;
};

inline BlockCounts count_blocks(const Problem& problem, Scratch& scratch) {
    BlockCounts result;
    result.blocks = cut_blocks(problem.geometry);
    double* each = scratch.take<double>(result.blocks.count + 1);
    result.total = count_elements(problem, result.blocks, each);
    result.each = each;
    return result;
}

// Block results are kept as [block][channel], so that merging runs over channels.
inline BlockMoments take_block_moments(Scratch& scratch, std::int64_t blocks, std::int64_t pitch) {
    return {scratch.take<double>(blocks * pitch), scratch.take<double>(blocks * pitch),
            scratch.take<double>(blocks * pitch)};
}
inline BlockSums take_block_sums(Scratch& scratch, std::int64_t blocks, std::int64_t pitch) {
    return {scratch.take<double>(blocks * pitch), scratch.take<double>(blocks * pitch)};
}

inline void store_moments(const BlockMoments& merged, std::int64_t channels, double total, bool any_block,
                          const ChannelStatistics& out) {
    std::fill_n(out.count, channels, total);
    if (!any_block) {
        std::fill_n(out.mean, channels, 0.0);
        std::fill_n(out.mean_low, channels, 0.0);
        std::fill_n(out.m2, channels, 0.0);
    } else if (merged.mean != out.mean) {  // a single block is measured in place
        std::copy_n(merged.mean, channels, out.mean);
        std::copy_n(merged.mean_low, channels, out.mean_low);
        std::copy_n(merged.m2, channels, out.m2);
    }
}

// --- sweeps -----------------------------------------------------------------------------------------------------

// Cuts the sweep of a whole tensor into tasks: [block ranges] x [channel ranges]. Planes go channel by channel as long
// as there are enough of them; rows, short and few planes are cut along the blocks, and few rows along the channels
// too.
struct Sweep {
    std::int64_t channel_step, block_step, channel_tasks, block_tasks;
    std::int64_t tasks() const { return channel_tasks * block_tasks; }
};

inline bool goes_along_rows(const Geometry& g) { return g.rows || g.flat; }

inline Sweep cut_sweep(const Problem& problem, const Blocks& blocks, int threads) {
    constexpr std::int64_t kTasksPerThread = 8;
    constexpr std::int64_t kRowPiece = 128;  // elements: 512 bytes of float32
    const std::int64_t wanted = kTasksPerThread * threads;
    const std::int64_t channels = problem.geometry.channels;
    Sweep sweep;
    if (goes_along_rows(problem.geometry)) {
        // No two tasks along rows should make the same batch of a mask, as long as there is work for all threads.
        const bool by_batches = problem.has_dropout() && channels * blocks.count >= kWholeBatches * threads;
        const std::int64_t row_piece = by_batches ? kWholeBatches : kRowPiece;
        const std::int64_t piece =
            std::max<std::int64_t>(1, row_piece / std::max<std::int64_t>(problem.geometry.inner, 1));
        const std::int64_t pieces = std::max<std::int64_t>(1, wanted / std::max<std::int64_t>(blocks.count, 1));
        const std::int64_t step = ((channels + pieces - 1) / pieces + piece - 1) / piece * piece;
        sweep.channel_step = std::clamp<std::int64_t>(step, 1, std::max<std::int64_t>(channels, 1));
        sweep.block_step = std::max<std::int64_t>(1, blocks.count / wanted);
    } else {
        sweep.channel_step = std::max<std::int64_t>(1, channels / wanted);
        const std::int64_t channel_tasks = (channels + sweep.channel_step - 1) / sweep.channel_step;
        sweep.block_step = std::max<std::int64_t>(1, blocks.count * channel_tasks / wanted);
        // Whole planes in backward with dropout, as long as there are several for each thread: no two tasks then make
        // bits of the same one.
        const bool keeps_bits = problem.has_dropout() && problem.dy.data != nullptr;
        const bool whole_planes = keeps_bits && problem.geometry.outer >= 4 * threads;
        if (whole_planes) sweep.block_step = (sweep.block_step + blocks.pieces - 1) / blocks.pieces * blocks.pieces;
    }
    sweep.block_step = std::min(sweep.block_step, std::max<std::int64_t>(blocks.count, 1));
    sweep.channel_tasks = (channels + sweep.channel_step - 1) / sweep.channel_step;
    sweep.block_tasks = (blocks.count + sweep.block_step - 1) / sweep.block_step;
    return sweep;
}

// Neighbouring tasks are neighbours in memory.
inline BlockRange block_range(const Problem& problem, const Blocks& blocks, const Sweep& sweep, std::int64_t task,
                              std::int64_t pitch) {
    const bool rows = goes_along_rows(problem.geometry);
    const std::int64_t channel = (rows ? task % sweep.channel_tasks : task / sweep.block_tasks) * sweep.channel_step;
    const std::int64_t block = (rows ? task / sweep.channel_tasks : task % sweep.block_tasks) * sweep.block_step;
    return {channel, std::min(channel + sweep.channel_step, problem.geometry.channels), block,
            std::min(block + sweep.block_step, blocks.count), pitch};
}

// Runs body(tile) over the whole tensor, in tiles that follow each other in memory. Last tiles first: what the sweep
// before read last is still in the thread's cache.
template <class Body>
void sweep_tiles(const Problem& problem, int threads, const Body& body) {
    constexpr std::int64_t kTilesPerThread = 16;
    const Geometry& g = problem.geometry;
    if (problem.elements() == 0) return;
    const std::int64_t wanted = kTilesPerThread * threads;
    const std::int64_t outer_step = std::max<std::int64_t>(1, g.outer / wanted);
    const std::int64_t outer_tiles = (g.outer + outer_step - 1) / outer_step;
    std::int64_t channel_step = g.channels, inner_step = g.inner;
    if (!g.rows && outer_tiles < wanted) {
        channel_step = std::max<std::int64_t>(1, g.channels * outer_tiles / wanted);
        const std::int64_t tiles = outer_tiles * ((g.channels + channel_step - 1) / channel_step);
        if (tiles < threads) inner_step = (g.inner * tiles / wanted + kLaneElements) / kLaneElements * kLaneElements;
    }
    const std::int64_t channel_tiles = (g.channels + channel_step - 1) / channel_step;
    const std::int64_t inner_tiles = (g.inner + inner_step - 1) / inner_step;
    const std::int64_t tiles = outer_tiles * channel_tiles * inner_tiles;
    parallel_for(tiles, threads, Order::kLastToFirst, [&](std::int64_t tile) {
        const std::int64_t o = tile / (channel_tiles * inner_tiles) * outer_step;
        const std::int64_t c = tile / inner_tiles % channel_tiles * channel_step;
        const std::int64_t i = tile % inner_tiles * inner_step;
        body(Tile{o, std::min(o + outer_step, g.outer), c, std::min(c + channel_step, g.channels), i,
                  std::min(i + inner_step, g.inner)});
    });
}

// Runs together(begin, end), which uses all threads, on one group of channels after the other, or alone(begin, end), by
// one thread, on several at once.
template <class Together, class Alone>
void for_each_group(const Problem& problem, const Grouping& grouping, int threads, const Together& together,
                    const Alone& alone) {
    const std::int64_t channels = problem.geometry.channels;
    if (grouping.shared) {
        for_each_range(channels, grouping.per_group, 1, together);
    } else {
        for_each_range(channels, grouping.per_group, threads, alone);
    }
}

// What normalising the group before channel `end` fetches ahead.
inline std::int64_t next_to_fetch(const Problem& problem, const Grouping& grouping, std::int64_t end) {
    return grouping.next > 0 && end >= problem.geometry.channels ? kFetchNothing : grouping.next;
}

// Channels whose blocks are merged by one task of a two-sweep call: short enough to share, long enough to vectorise.
constexpr std::int64_t kMergedTogether = 64;

// sum(range) for all blocks of the tensor, then merge(first channel, end) for all channels.
template <class Sum, class Merge>
void two_phase_sums(const Problem& problem, const Blocks& blocks, int threads, std::int64_t pitch, const Sum& sum,
                    const Merge& merge) {
    const Sweep sweep = cut_sweep(problem, blocks, threads);
    parallel_for(sweep.tasks(), threads,
                 [&](std::int64_t task) { sum(block_range(problem, blocks, sweep, task, pitch)); });
    for_each_range(problem.geometry.channels, kMergedTogether, threads, merge);
}

}  // namespace bnfast::cpu
