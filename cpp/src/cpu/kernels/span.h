// What the kernels share: addressing, block borders, where bits, activation dispatch.
#pragma once

#include "cpu/kernels/table.h"
#include "math/activations.h"
#include "math/storage.h"

namespace bnfast {
namespace BNFAST_TARGET {

using cpu::BackwardTask;
using cpu::BlockMoments;
using cpu::BlockRange;
using cpu::Blocks;
using cpu::BlockSums;
using cpu::Coefficients;
using cpu::ForwardTask;
using cpu::Geometry;
using cpu::KeepBits;
using cpu::MomentsTask;
using cpu::Operand;
using cpu::Tile;
using cpu::WhereBits;

constexpr std::int64_t kPrefetchBytes = 2048;  // ahead of the loads, to hide the latency of DRAM
constexpr int kRowsAtOnce = 8;                 // rows summed for each load and store of the running sums

// Channels whose planes are summed in the order in which they lie in memory, where planes are short: one by one, each
// would be a jump to other pages.
constexpr std::int64_t kPlanesTogether = 32;
BNFAST_INLINE std::int64_t planes_together(const Geometry& geometry) {
    constexpr std::int64_t kLongPlane = 1024;  // elements
    return geometry.inner >= kLongPlane ? 1 : kPlanesTogether;
}

template <class S>
BNFAST_INLINE S* at(const Operand& operand, std::int64_t outer, std::int64_t channel) {
    return static_cast<S*>(operand.data) + outer * operand.outer_stride + channel * operand.channel_stride;
}

// Fetches what a walk over runs of n elements will load kPrefetchBytes after element i: in this run or in the next.
template <class S>
BNFAST_INLINE void prefetch(const S* run, const S* next_run, std::int64_t i, std::int64_t n) {
    const std::int64_t ahead = i + kPrefetchBytes / static_cast<std::int64_t>(sizeof(S));
    __builtin_prefetch(ahead < n ? run + ahead : next_run + (ahead - n));
}
// The distance in elements at which a walk over kRowsAtOnce rows fetches ahead: the rows that follow, or further along
// these where they are long.
template <class S>
BNFAST_INLINE std::int64_t rows_ahead(std::int64_t stride, std::int64_t width) {
    constexpr std::int64_t kShort = 2 * kPrefetchBytes / static_cast<std::int64_t>(sizeof(S)) / kRowsAtOnce;
    return width <= kShort ? kRowsAtOnce * stride : kShort;
}

// The 16 bits from bit `i` on.
BNFAST_INLINE std::uint32_t bits_from(const std::uint8_t* row, std::int64_t i) {
    std::uint32_t word;
    __builtin_memcpy(&word, row + (i >> 3), sizeof word);
    return word >> (i & 7);
}
BNFAST_INLINE bool bit_at(const std::uint8_t* row, std::int64_t i) { return (row[i >> 3] >> (i & 7)) & 1; }

// The part of a channel that block `b` is: outer indices [outer_begin, outer_end), elements [inner_begin, inner_end).
struct BlockSpan {
    std::int64_t outer_begin, outer_end, inner_begin, inner_end;
};
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

// One vector of a coefficient: the same for a whole plane, or one lane a channel for a row.
template <class T>
BNFAST_INLINE Vec<T> plane_coefficient(const void* values, std::int64_t channel) {
    return Vec<T>(static_cast<const T*>(values)[channel]);
}
template <class T>
BNFAST_INLINE Vec<T> row_coefficient(const void* values, std::int64_t channel) {
    return load(static_cast<const T*>(values) + channel);
}

// Calls f with the activation as a value, so that the loop around it is compiled for each one.
template <class T, class F>
BNFAST_INLINE void with_activation(Activation activation, double slope, F f) {
    const T parameter = static_cast<T>(slope);
    switch (activation) {
        case Activation::kNone: return f(Identity<T>(parameter));
        case Activation::kRelu: return f(Relu<T>(parameter));
        case Activation::kLeakyRelu: return f(LeakyRelu<T>(parameter));
        case Activation::kSigmoid: return f(Sigmoid<T>(parameter));
        case Activation::kTanh: return f(Tanh<T>(parameter));
        case Activation::kSilu: return f(Silu<T>(parameter));
        case Activation::kGelu: return f(Gelu<T>(parameter));
        case Activation::kElu: return f(Elu<T>(parameter));
    }
}

template <class A>
struct IsIdentity {
    static constexpr bool kValue = false;
};
template <class T>
struct IsIdentity<Identity<T>> {
    static constexpr bool kValue = true;
};

// The centred input (x - mean) * prescale, and from it the affine's output: one definition for forward and backward, so
// that the backward's pre-activation is the forward's, bit for bit.
template <class T>
struct Affine {
    Vec<T> mean_high, mean_low, scale, shift;
    bool has_prescale;
    Vec<T> prescale;

    BNFAST_INLINE Vec<T> centre(Vec<T> x) const {
        if (has_prescale) x = x * prescale;
        return (x - mean_high) - mean_low;
    }
    BNFAST_INLINE Vec<T> apply(Vec<T> centred) const { return centred * scale + shift; }
};

template <class T, bool kRows>
BNFAST_INLINE Affine<T> load_affine(const Coefficients& c, std::int64_t channel) {
    const auto get = [&](const void* values) __attribute__((always_inline)) {
        return kRows ? row_coefficient<T>(values, channel) : plane_coefficient<T>(values, channel);
    };
    Affine<T> affine{get(c.mean_high), get(c.mean_low), get(c.scale), get(c.shift), c.prescale != nullptr, Vec<T>(1)};
    if (affine.has_prescale) affine.prescale = get(c.prescale);
    return affine;
}

template <class T>
BNFAST_INLINE Affine<T> blend(Mask<T> mask, const Affine<T>& a, const Affine<T>& b) {
    return {select(mask, a.mean_high, b.mean_high),
            select(mask, a.mean_low, b.mean_low),
            select(mask, a.scale, b.scale),
            select(mask, a.shift, b.shift),
            a.has_prescale,
            select(mask, a.prescale, b.prescale)};
}

// Elements that a kernel handles at once: `i` on from the start of plane (outer, channel), or of row `outer`.
struct Position {
    std::int64_t outer, channel, i;
};
template <class S>
BNFAST_INLINE S* at(const Operand& operand, const Position& p) {
    return at<S>(operand, p.outer, p.channel) + p.i;
}

// Whether all operands of a tile are dense in memory, so that it can be walked without regard to where one plane or row
// ends and the next begins: every vector but the first and the last is then whole, and aligned in the output.
BNFAST_INLINE bool dense(const Operand& operand, const Geometry& g) {
    return operand.data == nullptr || (g.rows ? operand.outer_stride == g.channels : operand.channel_stride == g.inner);
}
BNFAST_INLINE bool whole(const Tile& tile, const Geometry& g) {
    return g.rows ? tile.channel_begin == 0 && tile.channel_end == g.channels
                  : tile.inner_begin == 0 && tile.inner_end == g.inner && g.inner >= kLanes;
}

// A tile of dense rows as one run. A vector may reach into the next row: per-channel values are continued
// periodically behind the last channel.
template <class Make, class Head, class Body>
BNFAST_INLINE void for_each_in_dense_rows(const Geometry& g, const Tile& tile, Make make, Head head_at, Body body) {
    const std::int64_t n = (tile.outer_end - tile.outer_begin) * g.channels;
    const Position start{tile.outer_begin, 0, 0};
    const std::int64_t head = head_at(start) < n ? head_at(start) : n;
    const std::int64_t tail = head + (n - head) / kLanes * kLanes;
    const std::int64_t step = g.channels < kLanes ? kLanes % g.channels : kLanes;
    std::int64_t channel = head % g.channels;
    for (std::int64_t i = head; i < tail; i += kLanes) {
        body(Position{tile.outer_begin, 0, i}, AllLanes{}, make(channel));
        channel += step;
        if (channel >= g.channels) channel -= g.channels;
    }
    for (std::int64_t i = head > 0 ? 0 : tail; i < n; i = i < tail ? tail : n) {
        body(Position{tile.outer_begin, 0, i}, FirstLanes{static_cast<int>(i < tail ? head : n - i)},
             make(i % g.channels));
    }
}

// The dense planes of one outer index as one run. A vector over the border of two planes blends their coefficients.
template <class T, class Make, class Head, class Body>
BNFAST_INLINE void for_each_in_dense_planes(const Geometry& g, const Tile& tile, std::int64_t outer, Make make,
                                            Head head_at, Body body) {
    const std::int64_t n = (tile.channel_end - tile.channel_begin) * g.inner;
    const Position start{outer, tile.channel_begin, 0};
    const std::int64_t head = head_at(start) < n ? head_at(start) : n;
    const std::int64_t tail = head + (n - head) / kLanes * kLanes;
    std::int64_t i = head, border = g.inner, channel = tile.channel_begin;
    auto coefficients = make(channel);
    if (head > 0) body(start, FirstLanes{static_cast<int>(head)}, coefficients);
    while (i < tail) {
        const std::int64_t last = border < tail ? border : tail;
        for (; i + kLanes <= last; i += kLanes) body(Position{outer, tile.channel_begin, i}, AllLanes{}, coefficients);
        if (i >= tail) break;
        const auto next = make(++channel);
        const auto both = blend(first_lanes<T>(static_cast<int>(border - i)), coefficients, next);
        body(Position{outer, tile.channel_begin, i}, AllLanes{}, both);
        i += kLanes;
        border += g.inner;
        coefficients = next;
    }
    if (i < n) {
        body(Position{outer, tile.channel_begin, i}, FirstLanes{static_cast<int>(n - i)}, make(tile.channel_end - 1));
    }
}

// Calls body(position, lanes, coefficients) for every vector of a tile. make(channel) gives the coefficients,
// head(position) the elements before the output is aligned. Planes go last to first: what the sweep before left in the
// cache is used before it is replaced.
template <class T, bool kRows, class Make, class Head, class Body>
BNFAST_INLINE void for_each_in_tile(const Geometry& g, const Tile& tile, bool is_dense, Make make, Head head,
                                    Body body) {
    if constexpr (kRows) {
        if (is_dense) return for_each_in_dense_rows(g, tile, make, head, body);
        for (std::int64_t o = tile.outer_begin; o < tile.outer_end; ++o) {
            for_each_vector(tile.channel_end - tile.channel_begin, head(Position{o, tile.channel_begin, 0}),
                            [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
                                body(Position{o, tile.channel_begin + i, 0}, lanes, make(tile.channel_begin + i));
                            });
        }
    } else {
        for (std::int64_t o = tile.outer_end - 1; o >= tile.outer_begin; --o) {
            if (is_dense) {
                for_each_in_dense_planes<T>(g, tile, o, make, head, body);
                continue;
            }
            for (std::int64_t c = tile.channel_begin; c < tile.channel_end; ++c) {
                const auto coefficients = make(c);
                for_each_vector(tile.inner_end - tile.inner_begin, head(Position{o, c, tile.inner_begin}),
                                [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
                                    body(Position{o, c, tile.inner_begin + i}, lanes, coefficients);
                                });
            }
        }
    }
}

// y or dy at a vector after dropout: kept and scaled, or zero.
template <class T, bool kRows>
BNFAST_INLINE Vec<T> drop(const KeepBits& keep, const Geometry& g, const Position& p, Vec<T> v) {
    constexpr std::int64_t kMaskGroup = 128;
    const std::int64_t first = kRows ? 0 : (p.outer * keep.all_channels + keep.first_channel) * g.inner % kMaskGroup;
    const std::int64_t bit = kRows ? p.outer * g.channels + p.channel + p.i : first + p.channel * g.inner + p.i;
    const std::uint8_t* row = keep.bits + (kRows ? 0 : p.outer * keep.pitch);
    return select(lanes_of<T>(bits_from(row, bit)), v * Vec<T>(static_cast<T>(keep.scale)), Vec<T>(0));
}

template <class T, bool kRows>
BNFAST_INLINE Mask<T> where_mask(const WhereBits& where, const Position& p) {
    return lanes_of<T>(kRows ? 0U - static_cast<std::uint32_t>(bit_at(where.bits, p.outer))
                             : bits_from(where.bits + p.outer * where.pitch, p.i));
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
