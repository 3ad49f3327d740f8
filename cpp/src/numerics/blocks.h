// In which order the elements of a channel are added: by the shape alone, whatever computes it and however it is
// shared.
//
// A channel is cut into blocks. Within a block, element i of a run is added to lane i mod 16, and the lanes' sums are
// added along a tree; in rows every channel has a sum of its own. Where planes are short or rows narrow, sums are taken
// for each element of a flat row, and folded to those of channels (sums.h). Blocks are merged along another tree.
#pragma once

#include <cstdint>

#include "numerics/portable.h"

namespace bnfast {

// x as outer runs of channels of inner contiguous elements. rows: inner is 1 and the channels are contiguous. A channel
// is what is measured by itself and has one set of coefficients; problem/layout.h says which share a statistic.
struct Geometry {
    std::int64_t outer = 0;
    std::int64_t channels = 0;
    std::int64_t inner = 0;
    bool rows = false;
    // Short planes or narrow rows that touch the next ones in memory, without where: several can be walked as one.
    bool flat = false;
};

// How a channel is cut into blocks, the units of the summation tree.
struct Blocks {
    std::int64_t count = 0;
    std::int64_t outer_per_block = 1;  // planes or rows in a block
    std::int64_t pieces = 1;           // blocks in a plane, where a plane is longer than a block
    std::int64_t piece = 0;            // elements of such a block
};

// The part of a channel that a block is: outer indices [outer_begin, outer_end), elements [inner_begin, inner_end).
struct BlockSpan {
    std::int64_t outer_begin, outer_end, inner_begin, inner_end;
};

// Where parameters lie along the inner elements, dgamma and dbeta are sums over channels: within a block of
// neighbouring channels one after the other, and the blocks along the tree.
struct ChannelBlocks {
    std::int64_t count = 0;
    std::int64_t channels = 0;  // of a block
};

namespace BNFAST_NUMERICS {

constexpr int kLanes = 16;                     // partial sums of a run
constexpr std::int64_t kRowsInFlat = 16;       // narrow rows that are one flat row
constexpr std::int64_t kBlockElements = 4096;  // of a channel of planes; four pages of float32, in L1
constexpr std::int64_t kBlockRows = 512;
static_assert(kBlockRows % kRowsInFlat == 0, "a block is whole flat rows, but for the last one");

// Below these, sums cost less along several rows or planes at once (measured): the channels of rows, which otherwise do
// not fill a vector, and the elements of a plane, whose own sums take as long as two vectors, or more given planes
// enough to add together.
constexpr std::int64_t kNarrowRow = 16, kShortPlane = 40, kShortPlaneOfMany = 50, kManyPlanes = 8;

// Whether short planes or narrow rows go as flat rows, for a call that takes sums over the elements of channels, or for
// one that does not.
BNFAST_INLINE bool goes_flat(const Geometry& geometry, bool takes_sums) {
    if (geometry.rows) return geometry.channels < kNarrowRow;
    const bool of_many = takes_sums && geometry.outer >= kManyPlanes;
    return geometry.inner > 0 && geometry.inner < (of_many ? kShortPlaneOfMany : kShortPlane);
}

BNFAST_INLINE Blocks cut_blocks(const Geometry& geometry) {
    if (geometry.outer == 0 || geometry.inner == 0) return {0, 1, 1, 0};
    if (!geometry.rows && geometry.inner > kBlockElements) {
        const std::int64_t wanted = (geometry.inner + kBlockElements - 1) / kBlockElements;
        const std::int64_t even = (geometry.inner + wanted - 1) / wanted;
        const std::int64_t piece = (even + kLanes - 1) / kLanes * kLanes;
        const std::int64_t pieces = (geometry.inner + piece - 1) / piece;
        return {geometry.outer * pieces, 1, pieces, piece};
    }
    // Short planes are summed like rows: no longer chains of additions than theirs.
    const std::int64_t planes = geometry.rows ? kBlockRows : kBlockElements / geometry.inner;
    const std::int64_t outer_per_block = planes < kBlockRows ? planes : kBlockRows;
    return {(geometry.outer + outer_per_block - 1) / outer_per_block, outer_per_block, 1, 0};
}

BNFAST_INLINE BlockSpan span_of(const Geometry& geometry, const Blocks& blocks, std::int64_t b) {
    if (blocks.pieces > 1) {
        const std::int64_t outer = b / blocks.pieces;
        const std::int64_t begin = (b % blocks.pieces) * blocks.piece;
        const std::int64_t end = begin + blocks.piece;
        return {outer, outer + 1, begin, end < geometry.inner ? end : geometry.inner};
    }
    const std::int64_t begin = b * blocks.outer_per_block;
    const std::int64_t end = begin + blocks.outer_per_block;
    return {begin, end < geometry.outer ? end : geometry.outer, 0, geometry.inner};
}

BNFAST_INLINE ChannelBlocks cut_channels(std::int64_t channels) {
    constexpr std::int64_t kFewest = 32, kMostBlocks = 64;  // enough to share, few enough to merge
    const std::int64_t even = (channels + kMostBlocks - 1) / kMostBlocks;
    const std::int64_t each = even < kFewest ? kFewest : even;
    return {(channels + each - 1) / each, each};
}

}  // namespace BNFAST_NUMERICS
}  // namespace bnfast
