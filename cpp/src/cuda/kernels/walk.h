// How the threads of a block go through the elements of a unit (task.h).
#pragma once

#include "cuda/kernels/storage.h"
#include "cuda/kernels/task.h"

namespace bnfast::cuda {

struct Unit {
    std::int64_t number, box, channel;  // the first channel
};
// Where an element is.
struct Place {
    std::int64_t box, outer, channel, inner;
};

// Shared memory of a block: room for sums over its threads, and behind it a tile of each operand that is staged.
constexpr int kMostEntries = 9;   // that are summed at once for each statistic of a thread and its neighbours
constexpr int kRowLanes = 8;      // neighbouring threads that share a row
constexpr int kMostOfVector = 4;  // channels of a thread in rows
constexpr std::int64_t scratch_bytes(bool rows) {
    return (rows ? kRowLanes : 1) * kMostEntries * (kMostThreads / kWarp) * static_cast<std::int64_t>(sizeof(double));
}

// Statistics of a block's unit, at most.
constexpr int statistics_of_unit(bool rows) { return rows ? kRowLanes * kMostOfVector : 1; }

// kCount neighbouring elements go through a thread at once. In rows each of them has a statistic of its own. Plain
// calls have an activation of few instructions, or none, and neither `where` nor dropout nor anything before the norm,
// nor is x to be found from y: their kernels are without the code for those, which takes registers even where it does
// not run.
template <class Element, int kElements, bool kInRows, bool kIsPlain>
struct Walk {
    using S = Element;
    using T = Compute<S>;
    static constexpr int kCount = kElements;
    static constexpr bool kRows = kInRows, kPlain = kIsPlain;
    static constexpr int kStatistics = kRows ? kCount : 1;  // of a thread
    using Vector = Pack<S, kCount>;

    const NormTask& task;

    BNFAST_DEVICE const Work& work() const { return task.work; }
    BNFAST_DEVICE int lane() const { return thread_index() & (work().lanes - 1); }
    // Threads whose statistics are others'.
    BNFAST_DEVICE int classes() const { return kRows ? work().lanes : 1; }
    // Of a thread's statistics the first one among those of the unit.
    BNFAST_DEVICE int own_statistic() const { return kRows ? lane() * kStatistics : 0; }
    // Whether this thread stands for all that have its statistics.
    BNFAST_DEVICE bool is_first_of_class() const { return thread_index() < classes(); }

    BNFAST_DEVICE Unit unit(std::int64_t number) const {
        const Divided d = divide(number, work().units_of_box);
        return {number, d.quotient, d.remainder * (kRows ? work().piece : task.share.divisor())};
    }
    // Of statistic k of this thread: its number, and whether it is there.
    BNFAST_DEVICE std::int64_t statistic(const Unit& unit, int k) const {
        if constexpr (!kRows) return task.units_of_statistic.quotient(unit.number);
        return unit.box * task.channels + unit.channel + lane() * kCount + k;
    }
    BNFAST_DEVICE bool has_statistic(const Unit& unit, int k) const {
        return !kRows || unit.channel + lane() * kCount + k < task.channels;
    }

    // Calls body(run, i, slot) for the vectors of items [first, last) that are this thread's: run is open(place) of the
    // item's first element, i counts elements from there, and slot is where the vector's elements are in a tile.
    template <class Open, class Body>
    BNFAST_DEVICE void for_each_vector(const Unit& unit, std::int64_t first, std::int64_t last, const Open& open,
                                       const Body& body) const {
        const int lanes = work().lanes, step = thread_count() / lanes;
        for (std::int64_t item = first + thread_index() / lanes; item < last; item += step) {
            Place place{unit.box, item, unit.channel, 0};
            std::int64_t length = work().piece;
            std::int64_t left = task.channels - unit.channel;
            if constexpr (!kRows) {
                const Divided run = divide(item, work().pieces);
                const Divided outer = divide(run.quotient, task.share);
                place.outer = outer.quotient;
                place.channel += outer.remainder;
                place.inner = run.remainder * length;
                left = task.inner - place.inner;
            }
            if (left < length) length = left;
            const auto run = open(place);
            const std::int64_t slot = (item - first) * work().piece;
            for (std::int64_t i = lane() * kCount; i < length; i += lanes * kCount) body(run, i, slot + i);
        }
    }

    // Calls f(begin, end) for the tiles of items [first, last).
    template <class F>
    BNFAST_DEVICE void for_each_tile(std::int64_t first, std::int64_t last, const F& f) const {
        for (std::int64_t begin = first; begin < last; begin += work().tile_items) f(begin, tile_end(begin, last));
    }
    // The same in the reverse order, with the knowledge whether it is the last one, which is still in shared memory;
    // and what was read last may be in a cache.
    template <class F>
    BNFAST_DEVICE void for_each_tile_back(std::int64_t first, std::int64_t last, const F& f) const {
        const std::int64_t tile = work().tile_items, tiles = (last - first + tile - 1) / tile;
        for (std::int64_t t = tiles - 1; t >= 0; --t) {
            f(first + t * tile, tile_end(first + t * tile, last), t == tiles - 1);
        }
    }
    BNFAST_DEVICE std::int64_t tile_end(std::int64_t begin, std::int64_t last) const {
        const std::int64_t end = begin + work().tile_items;
        return end < last ? end : last;
    }

    BNFAST_DEVICE S* at(const Operand& operand, const Place& p) const {
        return reinterpret_cast<S*>(operand.data) + p.box * operand.box + p.outer * operand.outer +
               p.channel * operand.channel + p.inner;
    }
    BNFAST_DEVICE S* at_if_any(const Operand& operand, const Place& p) const {
        return operand.is_there() ? at(operand, p) : nullptr;
    }

    // --- where ---

    BNFAST_DEVICE const std::uint8_t* open_where(const Place& p) const {
        return kPlain || task.where == nullptr ? nullptr : task.where + p.outer * task.inner + p.inner;
    }
    // Whether element e of vector i takes part.
    BNFAST_DEVICE bool takes_part(const std::uint8_t* where, std::int64_t i, int e) const {
        return kPlain || where == nullptr || where[kRows ? 0 : i + e] != 0;
    }

    // --- shared memory ---

    BNFAST_DEVICE double* scratch() const { return reinterpret_cast<double*>(shared_memory()); }
    // The tile of staged operand number k. Behind those of the operands are tiles of numbers that are computed with.
    BNFAST_DEVICE S* tile(int k) const {
        return reinterpret_cast<S*>(shared_memory() + scratch_bytes(kRows) + k * work().tile_bytes);
    }
    BNFAST_DEVICE Vector load_staged(const S* tile_of, std::int64_t slot) const {
        return *reinterpret_cast<const Vector*>(tile_of + slot);
    }
    // Copies an operand's items to its tile; wait_for_copies() comes behind all of them.
    BNFAST_DEVICE void stage(const Operand& operand, S* to, const Unit& unit, std::int64_t first,
                             std::int64_t last) const {
        for_each_vector(
            unit, first, last, [&](const Place& p) { return at(operand, p); },
            [&](const S* from, std::int64_t i, std::int64_t slot) { copy_to_shared<Vector>(to + slot, from + i); });
    }
};

}  // namespace bnfast::cuda
