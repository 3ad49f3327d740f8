// How a call is cut for a chip: teams of blocks, and what each keeps in its shared memory.
//
// A team is so many blocks that a unit fits into their shared memory, and so is read once; and at least so many that
// all units together occupy the chip. Where a unit is too large for the chip, its blocks go through it in tiles, twice.
// No result depends on anything but the call and the chip.
#include "cuda/plan.h"

#include <algorithm>

#include "cuda/kernels/mask.h"
#include "cuda/kernels/team.h"
#include "cuda/kernels/walk.h"

namespace bnfast::cuda {
namespace {

constexpr std::int64_t kPiece = 512;         // elements of an item: some vectors for each thread of a warp
constexpr std::int64_t kAlign = 8;           // elements: a piece begins at a multiple of 16 bytes in a tile
constexpr std::int64_t kSharedUnit = 256;    // bytes: shared memory is given to blocks in multiples of it
constexpr int kMostBlocks = 16;              // that any chip's processor holds at once
constexpr std::int64_t kFewestBytes = 4096;  // of a block that shares a unit with others
constexpr std::int64_t kStreamed = 1 << 16;  // bytes of a block that stages nothing

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }
std::int64_t ceil_div(std::int64_t n, std::int64_t d) { return (n + d - 1) / d; }

int power_of_two(std::int64_t at_least, int least, int most) {
    int result = least;
    while (result < most && result < at_least) result *= 2;
    return result;
}

// Items of a unit.
void cut_items(const KernelShape& shape, std::int64_t most_elements, NormTask& task) {
    Work& work = task.work;
    if (shape.rows) {
        work.lanes = kRowLanes;
        work.piece = kRowLanes * shape.count;
        work.items = task.outer;
        return;
    }
    const std::int64_t most = std::clamp<std::int64_t>(most_elements / kAlign * kAlign, kAlign, kPiece);
    const std::int64_t inner = std::max<std::int64_t>(task.inner, 1);
    const std::int64_t pieces = ceil_div(inner, most);
    work.piece = round_up(ceil_div(inner, pieces), kAlign);
    work.pieces = Divider(ceil_div(inner, work.piece));
    work.lanes = power_of_two(ceil_div(std::min(work.piece, inner), shape.count), 1, kWarp);
    work.items = task.inner == 0 ? 0 : task.outer * task.share.divisor() * work.pieces.divisor();
}

// The threads of a warp share the bits of an item, where it is theirs alone and one run of the mask.
void set_windows(std::int64_t offset, NormTask& task) {
    for (MaskTask* mask : {&task.mask, &task.mask_before}) {  // at most one of them is used
        if (!mask->along || task.work.lanes != kWarp) continue;
        mask->window = offset;
        mask->window_bytes = window_bytes(task.work.piece);
    }
}

}  // namespace

int vector_of(const NormTask& task, bool rows, std::int64_t size, int most) {
    const auto fits = [&](std::int64_t count) {
        if ((rows ? task.channels : task.inner) % count != 0) return false;
        for (const Operand* operand : {&task.x, &task.residual, &task.y, &task.dy, &task.dh, &task.dx, &task.dresidual,
                                       &task.input, &task.input_residual}) {
            if (!operand->is_there()) continue;
            const auto address = reinterpret_cast<std::uintptr_t>(operand->data);
            if (address % static_cast<std::uintptr_t>(count * size) != 0) return false;
            if (operand->box % count != 0 || operand->outer % count != 0) return false;
            if (!rows && operand->channel % count != 0) return false;
        }
        return true;
    };
    int count = most;
    while (count > 1 && !fits(count)) count /= 2;
    return count;
}

Grid plan(const KernelShape& shape, NormTask& task, TeamMemory& memory, Stream stream) {
    const Properties& chip = properties();
    Work& work = task.work;
    const std::int64_t scratch = scratch_bytes(shape.rows);
    // Room for the bits of masks is there in any case: no sum depends on whether there is dropout.
    const std::int64_t windows = kMostThreads / kWarp * window_bytes(kPiece);
    const std::int64_t room =
        std::min(chip.shared_per_processor / kLeastBlocks - chip.shared_reserved, chip.shared_per_block) - scratch -
        windows;

    // Bytes of an element in shared memory, where parameters and their sums are staged, too.
    const std::int64_t plain = shape.tiles * shape.size;
    const std::int64_t rich = plain + shape.staged_parameter_bytes + shape.parameter_sum_bytes;
    const bool may_stage_parameters = shape.tiles > 0 && rich > plain && task.outer == 1 &&
                                      task.parameter_count == task.inner &&
                                      task.parameters == ParametersAre::kAlongInner;
    cut_items(shape, shape.tiles == 0 ? kPiece : room / (may_stage_parameters ? rich : plain), task);

    const std::int64_t parts = shape.rows ? ceil_div(task.channels, work.piece) : task.channels / task.share.divisor();
    work.units = task.boxes * parts;
    work.units_of_box = Divider(parts);
    const auto tile_of = [&](std::int64_t bytes) { return std::max<std::int64_t>(room / (bytes * work.piece), 1); };
    const auto threads_of = [&](std::int64_t items) {
        constexpr std::int64_t kVectors = 4;  // of a thread, at least
        return power_of_two(ceil_div(items * work.piece, shape.count * kVectors), kWarp, kMostThreads);
    };
    const auto grid_of = [&](std::int64_t tile_items, std::int64_t bytes) {
        Grid grid;
        grid.threads = threads_of(std::min(tile_items, std::max<std::int64_t>(work.items, 1)));
        grid.shared_bytes = scratch + tile_items * work.piece * bytes + windows;
        return grid;
    };

    if (shape.tiles == 0) {
        work.tile_items = 0;
        const std::int64_t items = std::max<std::int64_t>(kStreamed / (work.piece * shape.size), 1);
        work.team = static_cast<int>(std::clamp<std::int64_t>(ceil_div(work.items, items), 1, 1 << 16));
        Grid grid = grid_of(0, 0);
        grid.threads = threads_of(items);
        set_windows(scratch, task);
        const std::int64_t most = std::int64_t{chip.processors} * 64;
        grid.blocks = std::min(work.units, ceil_div(most, work.team)) * work.team;
        return grid;
    }

    // With parameters staged, if the unit then still fits into the chip at once.
    const auto attempt = [&](std::int64_t bytes) {
        std::int64_t tile = std::min(tile_of(bytes), std::max<std::int64_t>(work.items, 1));
        Grid grid = grid_of(tile, bytes);
        // The same for all kernels, so that a statistic has the same bits whichever measures it.
        const auto resident = [&] {
            const std::int64_t each = round_up(grid.shared_bytes, kSharedUnit) + chip.shared_reserved;
            const std::int64_t by_memory = chip.shared_per_processor / each;
            const std::int64_t by_threads = std::min(kLeastBlocks * kMostThreads / grid.threads, kMostBlocks);
            return std::max<std::int64_t>(std::min(by_memory, by_threads), 1) * chip.processors;
        };
        std::int64_t all = resident();
        const std::int64_t fewest = std::max<std::int64_t>(kFewestBytes / (work.piece * shape.size), 1);
        const std::int64_t wanted =
            std::max(ceil_div(work.items, tile),
                     std::min(all / std::max<std::int64_t>(work.units, 1), ceil_div(work.items, fewest)));
        work.team = static_cast<int>(std::clamp<std::int64_t>(wanted, 1, all));
        const std::int64_t share = ceil_div(std::max<std::int64_t>(work.items, 1), work.team);
        if (share < tile) {  // smaller tiles may let more blocks in
            tile = share;
            grid = grid_of(tile, bytes);
            all = std::max(resident(), std::int64_t{work.team});
        }
        work.tile_items = tile;
        work.tile_bytes = tile * work.piece * shape.size;
        grid.blocks = std::min(work.units, all / work.team) * work.team;
        return grid;
    };
    Grid grid;
    bool staged = false;
    if (may_stage_parameters) {
        grid = attempt(rich);
        staged = ceil_div(work.items, work.team) <= work.tile_items;
    }
    work.parameters_staged = staged && shape.staged_parameter_bytes > 0;
    const std::int64_t bytes = staged ? rich : plain;
    if (!staged) grid = attempt(plain);
    set_windows(scratch + work.tile_items * work.piece * bytes, task);
    grid.together = work.team > 1 && grid.blocks > 0;
    if (grid.together) {
        const std::int64_t teams = grid.blocks / work.team;
        const std::int64_t statistics = statistics_of_unit(shape.rows);
        memory.exchange = DeviceMemory<double>(2 * grid.blocks * statistics * kExchanged, stream);
        memory.arrivals = DeviceMemory<std::uint32_t>(teams, stream);
        fill_with_zeros(memory.arrivals.get(), static_cast<std::size_t>(teams) * sizeof(std::uint32_t), stream);
        work.exchange = memory.exchange.get();
        work.arrivals = memory.arrivals.get();
    }
    return grid;
}

}  // namespace bnfast::cuda
