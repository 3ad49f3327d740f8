// The dropout behind an activation as kernels take it, and where its mask is stored between the two sweeps of backward.
#include "cpu/mask_task.h"

namespace bnfast::cpu {

MaskTask mask_task_of(const BoundProblem& problem) {
    MaskTask mask;
    mask.used = problem.has_dropout();
    mask.dropout = problem.dropout;
    mask.all_channels = problem.all_channels;
    mask.first_channel = problem.first_channel;
    mask.scale = problem.dropout_scale;
    mask.stored = problem.stored_mask;
    mask.portion = mask_portion(problem);
    return mask;
}

void take_stored_mask(Scratch& scratch, const Blocks& blocks, const BlockSweep& sweep, bool alone,
                      BoundProblem& group) {
    const Geometry& g = group.geometry;
    const bool normalised_flat = g.flat && (g.rows || g.inner < numerics::kLanes);
    if (!group.has_dropout() || normalised_flat || group.where.are_there()) return;
    constexpr std::int64_t kSlackWords = 16;  // the count, and what begins and ends between two batches of elements
    // Words of rows are those of a mask from its first element on: of the only box, or of the first one.
    if (g.rows && group.first_channel != 0) return;
    if (g.rows) {
        const bool by_batches = g.channels % kWholeBatches == 0 && sweep.channel_step % kWholeBatches == 0;
        if (alone || by_batches || sweep.channel_tasks() == 1) {
            group.stored_mask.words = scratch.take<std::uint64_t>(g.outer * g.channels / 64 + kSlackWords);
        }
        return;
    }
    constexpr std::int64_t kLongRun = 1024;  // elements, beside which the slack is little
    static_assert(kLongRun >= kWholeBatches, "no outer index is shorter than a batch");
    const bool by_outer = sweep.channel_tasks() == 1 && sweep.block_step % blocks.pieces == 0;
    if (!alone && (!by_outer || g.channels * g.inner < kLongRun)) return;
    group.stored_mask.pitch = g.channels * g.inner / 64 + kSlackWords;
    group.stored_mask.words = scratch.take<std::uint64_t>(g.outer * group.stored_mask.pitch);
    for (std::int64_t o = 0; o < g.outer; ++o) group.stored_mask.words[o * group.stored_mask.pitch] = 0;
}

}  // namespace bnfast::cpu
