// How a call is cut into work: which threads do what, in which order, and what is written past the caches or fetched
// ahead. Only speed depends on these decisions: tests have them made at random (randomise_schedule) and find the same
// bits. (How far a loop fetches ahead is in kernels/span.h, what busy cores change in parallel.cpp.)
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cpu/bound_problem.h"
#include "cpu/parallel.h"

namespace bnfast::cpu {

// The threads that are worth waking for a call over so many elements.
int useful_threads(std::int64_t elements);

// Whether results are written past the caches: the lines need not be read first then.
bool worth_streaming(const BoundProblem& problem);
// The same for dropout alone, of so many bytes.
bool worth_streaming(std::int64_t bytes);

// Mask elements whose bits a fused loop makes at once.
std::int64_t mask_portion(const BoundProblem& problem);

// --- channels ---------------------------------------------------------------------------------------------------

// Ranges of channels narrow enough that all threads have several; of whole lines and vectors where they are wide.
std::int64_t channels_per_task(std::int64_t channels, int threads);

// Runs body(begin, end) over ranges of channels.
template <class Body>
void for_each_range(std::int64_t channels, std::int64_t step, int threads, const Body& body) {
    parallel_for((channels + step - 1) / step, threads,
                 [&](std::int64_t task) { body(task * step, std::min(channels, (task + 1) * step)); });
}

// Channels whose blocks are merged by one task of a two-sweep call: short enough to share, long enough to vectorise.
std::int64_t channels_merged_together();

// Channels as they are shared out, rounded up to those of whole statistics.
inline std::int64_t whole_statistics(const BoundProblem& problem, std::int64_t channels) {
    return (channels + problem.share - 1) / problem.share * problem.share;
}

// How the channels of a tensor are grouped. A group is measured and then normalised while it is in the caches.
struct Grouping {
    std::int64_t per_group = 1;         // channels
    bool shared = false;                // all threads work on one group after the other, each on its part
    std::int64_t next = kFetchNothing;  // what normalising one fetches ahead: fetch_channels of the kernels' tasks

    // What normalising the group before channel `end` of `channels` fetches ahead.
    std::int64_t next_to_fetch(std::int64_t end, std::int64_t channels) const {
        return next > 0 && end >= channels ? kFetchNothing : next;
    }
};
// `operands` is the number of tensors that are read.
Grouping group_channels(const BoundProblem& problem, int operands, int threads);

// Where parameters lie along the inner elements: whether all threads work on all channels, first measuring or summing
// and then writing, or each on channels of its own, of which there are so many `parts`.
bool works_together_along(const BoundProblem& problem, const Blocks& blocks, std::int64_t parts, int operands,
                          int threads);

// Whether threads that only normalise should each have channels of their own, too: where coefficients take as long as
// the elements, or runs are long.
bool normalises_by_groups(const BoundProblem& problem, const Grouping& grouping);

// Runs together(begin, end), which uses all threads, on one group of channels after the other, or alone(begin, end), by
// one thread, on several at once.
template <class Together, class Alone>
void for_each_group(const BoundProblem& problem, const Grouping& grouping, int threads, const Together& together,
                    const Alone& alone) {
    const std::int64_t channels = problem.geometry.channels;
    if (grouping.shared) {
        for_each_range(channels, grouping.per_group, 1, together);
    } else {
        for_each_range(channels, grouping.per_group, threads, alone);
    }
}

// --- sweeps over a whole tensor ---------------------------------------------------------------------------------

// The tasks of a sweep that sums blocks: [block ranges] x [channel ranges].
struct BlockSweep {
    std::int64_t channels = 0, blocks = 0;  // in all
    std::int64_t channel_step = 1, block_step = 1;
    bool along_rows = false;  // neighbouring tasks have neighbouring channels of the same blocks

    std::int64_t channel_tasks() const { return (channels + channel_step - 1) / channel_step; }
    std::int64_t block_tasks() const { return (blocks + block_step - 1) / block_step; }
    std::int64_t tasks() const { return channel_tasks() * block_tasks(); }
    BlockRange range(std::int64_t task, std::int64_t pitch) const;
};
BlockSweep cut_blocks_into_tasks(const BoundProblem& problem, const Blocks& blocks, int threads);

// The tasks of a sweep that writes tiles, which follow each other in memory.
struct TileSweep {
    Geometry geometry;
    std::int64_t outer_step = 1, channel_step = 1, inner_step = 1;

    std::int64_t tasks() const;
    Tile tile(std::int64_t task) const;
};
TileSweep cut_tiles(const BoundProblem& problem, int threads);

// Runs body(tile) over the whole tensor. Last tiles first: what the sweep before read last is still in the thread's
// cache.
template <class Body>
void sweep_tiles(const BoundProblem& problem, int threads, const Body& body) {
    if (problem.elements() == 0) return;
    const TileSweep sweep = cut_tiles(problem, threads);
    parallel_for(sweep.tasks(), threads, Order::kLastToFirst, [&](std::int64_t task) { body(sweep.tile(task)); });
}

// --- for tests --------------------------------------------------------------------------------------------------

// From now on every decision is drawn at random, from this seed; until restore_schedule().
void randomise_schedule(std::uint64_t seed);
void restore_schedule();
// The sizes at which the order of sums or the schedule changes, by name.
std::vector<std::pair<std::string, std::int64_t>> thresholds();

}  // namespace bnfast::cpu
