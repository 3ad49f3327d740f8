// Dropout of tensors whose elements do not lie in C order, as images with channels last.
#include "cpu/dropout_tiles.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cpu/schedule.h"
#include "cpu/scratch.h"

namespace bnfast::cpu {
namespace {

// A dimension, or several that can be walked as one: its length, and a step's bytes in x and y and elements of the
// mask.
struct Axis {
    std::int64_t n = 1, x = 0, y = 0, mask = 0;
};

// The dimensions in C order, as few as can be.
std::vector<Axis> axes_of(const DropoutProblem& problem) {
    const MaskRuns& runs = problem.runs;
    std::vector<Axis> axes;
    std::int64_t in_run = runs.constant ? 0 : 1;
    for (int d = problem.x.ndim - 1; d >= 0; --d) {
        Axis axis{problem.x.shape[d], problem.x.strides[d], problem.y.strides[d], in_run};
        if (d < runs.first_dim) axis.mask = runs.mask_strides[static_cast<std::size_t>(d)];
        in_run *= axis.n;
        if (axis.n == 1) continue;
        if (!axes.empty()) {
            Axis& last = axes.back();
            if (axis.x == last.x * last.n && axis.y == last.y * last.n && axis.mask == last.mask * last.n) {
                last.n *= axis.n;
                continue;
            }
        }
        axes.push_back(axis);
    }
    if (axes.empty()) axes.push_back({});
    std::reverse(axes.begin(), axes.end());
    return axes;
}

// How the tensor is cut: a tile has `across` elements of one axis by `along` of the last one.
struct Tiling {
    Axis cross, run;
    std::vector<Axis> others;
    std::int64_t across = 1, along = 1, crosses = 1, parts = 1, tiles = 1;
};

Tiling tiling_of(std::vector<Axis> axes, std::int64_t item) {
    // Wide enough that memory is read in stretches, and small beside a second-level cache.
    constexpr std::int64_t kAcrossBytes = 256, kTileBytes = 65536;
    Tiling tiling;
    tiling.run = axes.back();
    axes.pop_back();
    // Across: the elements that are neighbours in memory, where those of the run are not.
    const auto nearest = std::min_element(axes.begin(), axes.end(),
                                          [](const Axis& a, const Axis& b) { return std::abs(a.x) < std::abs(b.x); });
    if (nearest != axes.end() && std::abs(nearest->x) < std::abs(tiling.run.x)) {
        tiling.cross = *nearest;
        axes.erase(nearest);
    }
    tiling.others = std::move(axes);
    tiling.across = std::min(tiling.cross.n, kAcrossBytes / item);
    tiling.along = std::min(tiling.run.n, kTileBytes / item / tiling.across);
    tiling.crosses = (tiling.cross.n + tiling.across - 1) / tiling.across;
    tiling.parts = (tiling.run.n + tiling.along - 1) / tiling.along;
    tiling.tiles = tiling.crosses * tiling.parts;
    for (const Axis& axis : tiling.others) tiling.tiles *= axis.n;
    return tiling;
}

// Where a tile begins, and how large it is.
struct Tile {
    const char* x;
    char* y;
    std::int64_t mask, across, along;
};

Tile tile_at(const DropoutProblem& problem, const Tiling& tiling, std::int64_t number) {
    const std::int64_t cross = number % tiling.crosses * tiling.across;
    number /= tiling.crosses;
    const std::int64_t part = number % tiling.parts * tiling.along;
    number /= tiling.parts;
    std::int64_t x = part * tiling.run.x + cross * tiling.cross.x, y = part * tiling.run.y + cross * tiling.cross.y;
    std::int64_t mask = part * tiling.run.mask + cross * tiling.cross.mask;
    for (std::size_t k = tiling.others.size(); k-- > 0;) {
        const Axis& axis = tiling.others[k];
        const std::int64_t at = number % axis.n;
        number /= axis.n;
        x += at * axis.x;
        y += at * axis.y;
        mask += at * axis.mask;
    }
    return {static_cast<const char*>(problem.x.data) + x, static_cast<char*>(problem.y.data) + y, mask,
            std::min(tiling.across, tiling.cross.n - cross), std::min(tiling.along, tiling.run.n - part)};
}

constexpr std::int64_t kRowsAhead = 8;  // that are fetched: hardware does not see lines so far apart coming

// Fetches so many elements, `step` bytes apart.
template <class Element>
void fetch(const char* p, std::int64_t n, std::int64_t step) {
    for (std::int64_t i = 0; i < n; i += 64 / static_cast<std::int64_t>(sizeof(Element)))
        __builtin_prefetch(p + i * step);
}

template <class Element>
void copy_in(const Tile& tile, const Tiling& tiling, std::int64_t pitch, Element* rows) {
    const std::int64_t step = tiling.run.x, cross = tiling.cross.x, across = tile.across;
    for (std::int64_t t = 0; t < tile.along; ++t) {
        const char* from = tile.x + t * step;
        fetch<Element>(from + kRowsAhead * step, across, cross);
        for (std::int64_t c = 0; c < across; ++c, from += cross) {
            std::memcpy(rows + c * pitch + t, from, sizeof(Element));
        }
    }
}

template <class Element>
void copy_out(const Tile& tile, const Tiling& tiling, std::int64_t pitch, const Element* rows) {
    const std::int64_t step = tiling.run.y, cross = tiling.cross.y, across = tile.across;
    for (std::int64_t t = 0; t < tile.along; ++t) {
        char* to = tile.y + t * step;
        fetch<Element>(to + kRowsAhead * step, across, cross);
        for (std::int64_t c = 0; c < across; ++c, to += cross) {
            std::memcpy(to, rows + c * pitch + t, sizeof(Element));
        }
    }
}

template <class Element>
void drop_tile(const Tile& tile, const Tiling& tiling, Element* rows, const DropElements& drop) {
    // Whole runs that follow each other in the mask, too, are one.
    const bool joined = tile.along == tiling.run.n && tiling.cross.mask == tiling.run.n && tiling.run.mask == 1;
    // Otherwise rows are a line further apart than a power of two would have them: they share no set of the cache.
    const std::int64_t pitch = joined ? tile.along : tile.along + 64 / static_cast<std::int64_t>(sizeof(Element));
    copy_in(tile, tiling, pitch, rows);
    char* const bytes = reinterpret_cast<char*>(rows);
    if (joined) {
        drop(bytes, bytes, tile.across * tile.along, static_cast<std::uint64_t>(tile.mask));
    } else {
        for (std::int64_t c = 0; c < tile.across; ++c) {
            char* const row = reinterpret_cast<char*>(rows + c * pitch);
            drop(row, row, tile.along, static_cast<std::uint64_t>(tile.mask + c * tiling.cross.mask));
        }
    }
    copy_out(tile, tiling, pitch, rows);
}

template <class Element>
void drop_all(const DropoutProblem& problem, const DropElements& drop) {
    constexpr std::int64_t kTaskElements = 65536;
    const Tiling tiling = tiling_of(axes_of(problem), sizeof(Element));
    const std::int64_t elements = tiling.across * tiling.along;
    const std::int64_t per_task = std::max<std::int64_t>(1, kTaskElements / elements);
    const int threads = useful_threads(elements * tiling.tiles);
    parallel_for((tiling.tiles + per_task - 1) / per_task, threads, [&](std::int64_t task) {
        Scratch scratch;
        Element* const rows = scratch.take<Element>(tiling.across * (tiling.along + 64));
        for (std::int64_t k = task * per_task; k < std::min(tiling.tiles, (task + 1) * per_task); ++k) {
            drop_tile(tile_at(problem, tiling, k), tiling, rows, drop);
        }
    });
}

}  // namespace

void dropout_by_tiles(const DropoutProblem& problem, const DropElements& drop) {
    switch (item_size(problem.x.dtype)) {
        case 8: return drop_all<std::uint64_t>(problem, drop);
        case 4: return drop_all<std::uint32_t>(problem, drop);
        default: return drop_all<std::uint16_t>(problem, drop);
    }
}

}  // namespace bnfast::cpu
