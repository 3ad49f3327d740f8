// What the kernels share: addressing, fetching ahead, block borders, walks over tiles, the bits of `where`.
#pragma once

#include "cpu/kernels/table.h"
#include "cpu/simd/loop.h"

namespace bnfast {
namespace BNFAST_TARGET {

using cpu::AffineArrays;
using cpu::AlongInner;
using cpu::BackwardTask;
using cpu::BlockMoments;
using cpu::BlockRange;
using cpu::BlockSums;
using cpu::ForwardTask;
using cpu::GradientArrays;
using cpu::kWholeBatches;
using cpu::MaskTask;
using cpu::MomentsTask;
using cpu::Operand;
using cpu::ParameterSums;
using cpu::Sums;
using cpu::Tile;
using cpu::WhereBits;

constexpr std::int64_t kPrefetchBytes = 8192;  // ahead of the loads, to hide the latency of DRAM
constexpr int kRowsAtOnce = 8;                 // rows summed for each load and store of the running sums

// Channels whose planes are summed in the order in which they lie in memory, where planes are short: one by one, each
// would be a jump to other pages.
constexpr std::int64_t kPlanesTogether = 32;
BNFAST_INLINE std::int64_t planes_together(const Geometry& geometry) {
    constexpr std::int64_t kLongPlane = 2048;  // elements
    return geometry.inner >= kLongPlane ? 1 : kPlanesTogether;
}

template <class S>
BNFAST_INLINE S* at(const Operand& operand, std::int64_t outer, std::int64_t channel) {
    return static_cast<S*>(operand.data) + outer * operand.outer_stride + channel * operand.channel_stride;
}

// Elements that a kernel handles at once: `i` on from the start of plane (outer, channel), or of row `outer`.
struct Position {
    std::int64_t outer, channel, i;
};
template <class S>
BNFAST_INLINE S* at(const Operand& operand, const Position& p) {
    return at<S>(operand, p.outer, p.channel) + p.i;
}

// The same for an operand that the call may lack.
template <class S>
BNFAST_INLINE S* at_if_any(const Operand& operand, const Position& p) {
    return operand.is_there() ? at<S>(operand, p) : nullptr;
}

// Into the private cache only: the hardware does the rest, and the first cache's few buffers stay free.
BNFAST_INLINE void fetch(const void* p) {
    constexpr int kReads = 0, kPrivateCache = 2;
    __builtin_prefetch(p, kReads, kPrivateCache);
}

// Where a walk over kCount rows at once, at element i of `width`, will be kPrefetchBytes later: a distance from there.
template <class S, int kCount>
BNFAST_INLINE std::int64_t rows_ahead(std::int64_t stride, std::int64_t width, std::int64_t i) {
    constexpr std::int64_t kAhead = kPrefetchBytes / static_cast<std::int64_t>(sizeof(S)) / kRowsAtOnce;
    if (width <= kAhead) return (kCount > kRowsAtOnce ? kCount : kRowsAtOnce) * stride;
    return i + kAhead < width ? kAhead : kCount * stride + kAhead - width;
}

// The 16 bits from bit `i` on.
BNFAST_INLINE std::uint32_t bits_from(const std::uint8_t* row, std::int64_t i) {
    std::uint32_t word;
    __builtin_memcpy(&word, row + (i >> 3), sizeof word);
    return word >> (i & 7);
}
BNFAST_INLINE bool bit_at(const std::uint8_t* row, std::int64_t i) { return (row[i >> 3] >> (i & 7)) & 1; }

// How far ahead of an element to fetch another: what comes next in memory, or what is so many channels on.
template <class S>
constexpr std::int64_t kAlong = kPrefetchBytes / static_cast<std::int64_t>(sizeof(S));
template <class S>
BNFAST_INLINE std::int64_t fetch_distance(const Operand& operand, std::int64_t fetch_channels) {
    return fetch_channels > 0 ? fetch_channels * operand.channel_stride : kAlong<S>;
}

// Whether all operands of a tile are dense in memory, so that it can be walked without regard to where one plane or row
// ends and the next begins: every vector but the first and the last is then whole, and aligned in the output.
BNFAST_INLINE bool dense(const Operand& operand, const Geometry& g) {
    return !operand.is_there() || (g.rows ? operand.outer_stride == g.channels : operand.channel_stride == g.inner);
}
BNFAST_INLINE bool whole(const Tile& tile, const Geometry& g) {
    return g.rows ? tile.channel_begin == 0 && tile.channel_end == g.channels
                  : tile.inner_begin == 0 && tile.inner_end == g.inner && g.inner >= kLanes;
}

// A walk over a tile goes along runs of memory, and along each by portions of vectors. Its loops take functions:
//   open(position) gives what the run that begins there is walked with, pointers above all: computed once a run,
//   head(run) the elements before the output is aligned, where it has to be: where it is streamed,
//   announce(position, n) one run of n elements ahead,
//   make(channel) gives the coefficients,
//   handle(run, begin, n, walk) handles n elements, at most a portion. It calls walk(body) as often as it has stages,
//     and that calls body(i, lanes, coefficients, ahead) for the elements from i on; `ahead` is how far from there to
//     fetch along rows.

// Calls f(first, count) for the elements [0, head) and [tail, n) that no whole vector covers, if any. A loop, so that
// there is one copy of f: inlined, as what a function of its own refers to would no longer be kept in registers.
template <class F>
BNFAST_INLINE void for_both_ends(std::int64_t n, std::int64_t head, std::int64_t tail, F f) {
    BNFAST_ROLL for (std::int64_t i = head > 0 ? 0 : tail; i < n; i = i < tail ? tail : n) {
        f(i, static_cast<int>(i < tail ? head : n - i));
    }
}

// A tile of dense rows as one run. A vector may reach into the next row: per-channel values are continued
// periodically behind the last channel.
template <class S, class Open, class Head, class Make, class Handle>
BNFAST_INLINE void for_each_in_dense_rows(const Geometry& g, const Tile& tile, std::int64_t portion, Open open,
                                          Head head_of_run, Make make, Handle handle) {
    const std::int64_t n = (tile.outer_end - tile.outer_begin) * g.channels, channels = g.channels;
    const auto run = open(Position{tile.outer_begin, 0, 0});
    const std::int64_t head = head_of_run(run) < n ? head_of_run(run) : n;
    const std::int64_t tail = head + (n - head) / kLanes * kLanes;
    const std::int64_t step = channels < kLanes ? kLanes % channels : kLanes;
    std::int64_t channel = head % channels, begin = head;
    for (std::int64_t end; begin < tail; begin = end) {
        end = tail - begin > portion ? begin + portion : tail;
        std::int64_t next_channel = channel;
        handle(run, begin, end - begin, [&](auto body) __attribute__((always_inline)) {
            std::int64_t c = channel;
            for (std::int64_t i = begin; i < end; i += kLanes) {
                body(i, AllLanes{}, make(c), kAlong<S>);
                c += step;
                if (c >= channels) c -= channels;
            }
            next_channel = c;
        });
        channel = next_channel;
    }
    for_both_ends(n, head, tail, [&](std::int64_t first, int count) __attribute__((always_inline)) {
        handle(run, first, count, [&](auto body) __attribute__((always_inline)) {
            body(first, FirstLanes{count}, make(first % channels), kAlong<S>);
        });
    });
}

// The dense planes of one outer index as one run. A vector over the border of two planes blends their coefficients.
template <class S, class Open, class Head, class Make, class Handle>
BNFAST_INLINE void for_each_in_dense_planes(const Geometry& g, const Tile& tile, std::int64_t outer,
                                            std::int64_t portion, Open open, Head head_of_run, Make make,
                                            Handle handle) {
    const std::int64_t n = (tile.channel_end - tile.channel_begin) * g.inner, inner = g.inner;
    const auto run = open(Position{outer, tile.channel_begin, 0});
    const std::int64_t head = head_of_run(run) < n ? head_of_run(run) : n;
    const std::int64_t tail = head + (n - head) / kLanes * kLanes;
    std::int64_t border = inner, channel = tile.channel_begin;  // those of the plane that the walk is in
    for_both_ends(head, head, head, [&](std::int64_t first, int count) __attribute__((always_inline)) {
        handle(run, first, count, [&](auto body) __attribute__((always_inline)) {
            body(first, FirstLanes{count}, make(tile.channel_begin), kAlong<S>);
        });
    });
    for (std::int64_t begin = head, end; begin < tail; begin = end) {
        end = tail - begin > portion ? begin + portion : tail;
        std::int64_t next_border = border, next_channel = channel;
        handle(run, begin, end - begin, [&](auto body) __attribute__((always_inline)) {
            std::int64_t i = begin, b = border, c = channel;
            auto coefficients = make(c);
            while (true) {
                const std::int64_t last = b < end ? b : end;
                for (; i + kLanes <= last; i += kLanes) body(i, AllLanes{}, coefficients, kAlong<S>);
                if (i >= end) break;
                const auto next = make(++c);
                body(i, AllLanes{}, blend(first_lanes<Compute<S>>(static_cast<int>(b - i)), coefficients, next),
                     kAlong<S>);
                i += kLanes;
                b += inner;
                coefficients = next;
            }
            next_border = b;
            next_channel = c;
        });
        border = next_border;
        channel = next_channel;
    }
    for_both_ends(n, 0, tail, [&](std::int64_t first, int count) __attribute__((always_inline)) {
        handle(run, first, count, [&](auto body) __attribute__((always_inline)) {
            body(first, FirstLanes{count}, make(tile.channel_end - 1), kAlong<S>);
        });
    });
}

// A run by itself, whose coefficients are make(i).
template <class S, class Run, class Head, class Make, class Handle>
BNFAST_INLINE void for_each_in_run(const Run& run, std::int64_t n, std::int64_t portion, Head head_of_run, Make make,
                                   Handle handle) {
    const std::int64_t head = head_of_run(run);  // a portion of its own: vectors begin where bits are prepared from
    for (std::int64_t begin = 0, count; begin < n; begin += count) {
        const std::int64_t most = begin < head ? head : portion;
        count = n - begin < most ? n - begin : most;
        handle(run, begin, count, [&](auto body) __attribute__((always_inline)) {
            for_each_vector(count, 0, [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
                body(begin + i, lanes, make(begin + i), kAlong<S>);
            });
        });
    }
}

// The ends of a run that is streamed out are stored through the cache. Fetched ahead, their lines do not hold up the
// streamed ones behind them.
template <class S>
BNFAST_INLINE void fetch_ends(const S* run, std::int64_t n) {
    constexpr int kWrites = 1;
    __builtin_prefetch(run, kWrites);
    __builtin_prefetch(run + n - 1, kWrites);
}

// All runs of a tile. Planes go last to first: what the sweep before left in the cache is used before it is replaced.
template <class S, class Loop, class Open, class Head, class Announce, class Make, class Handle>
BNFAST_INLINE void for_each_in_tile(const Geometry& g, const Tile& tile, bool is_dense, std::int64_t portion, Open open,
                                    Head head_of_run, Announce announce, Make make, Handle handle) {
    if constexpr (Loop::kRows) {
        if (is_dense) {
            return for_each_in_dense_rows<S>(g, tile, portion, open, head_of_run, make, handle);
        }
        for (std::int64_t o = tile.outer_begin; o < tile.outer_end; ++o) {
            for_each_in_run<S>(
                open(Position{o, tile.channel_begin, 0}), tile.channel_end - tile.channel_begin, portion, head_of_run,
                [&](std::int64_t i) __attribute__((always_inline)) { return make(tile.channel_begin + i); }, handle);
        }
    } else {
        for (std::int64_t o = tile.outer_end - 1; o >= tile.outer_begin; --o) {
            if (is_dense) {
                const std::int64_t next = o > tile.outer_begin ? o - 1 : o;
                announce(Position{next, tile.channel_begin, 0}, (tile.channel_end - tile.channel_begin) * g.inner);
                for_each_in_dense_planes<S>(g, tile, o, portion, open, head_of_run, make, handle);
                continue;
            }
            for (std::int64_t c = tile.channel_begin; c < tile.channel_end; ++c) {
                const auto coefficients = make(c);
                for_each_in_run<S>(
                    open(Position{o, c, tile.inner_begin}), tile.inner_end - tile.inner_begin, portion, head_of_run,
                    [&](std::int64_t) __attribute__((always_inline)) { return coefficients; }, handle);
            }
        }
    }
}

// The where bits of a run: one for each element of a plane, one for a whole row.
struct WhereRun {
    const std::uint8_t* row = nullptr;
    std::int64_t first = 0;
    std::uint32_t kept = 0;
};
template <bool kRows>
BNFAST_INLINE WhereRun open_where(const WhereBits& where, const Position& p) {
    if (!where.are_there()) return {};
    if (kRows) return {nullptr, 0, 0U - static_cast<std::uint32_t>(bit_at(where.bits, p.outer))};
    return {where.bits + p.outer * where.pitch, p.i, 0};
}
template <class T, bool kRows>
BNFAST_INLINE Mask<T> where_mask(const WhereRun& where, std::int64_t i) {
    return lanes_of<T>(kRows ? where.kept : bits_from(where.row, where.first + i));
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
