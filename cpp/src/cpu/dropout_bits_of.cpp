// The dropout behind an activation as kernels take it, and where its bits are kept between the two sweeps of backward.
#include "cpu/dropout_bits_of.h"

namespace bnfast::cpu {

KeepBits keep_of(const BoundProblem& problem) {
    KeepBits keep;
    keep.used = problem.has_dropout();
    keep.generator = problem.dropout;
    keep.all_channels = problem.all_channels;
    keep.first_channel = problem.first_channel;
    keep.scale = problem.dropout_scale;
    keep.store = problem.kept_bits;
    keep.pitch = problem.kept_bits_pitch;
    keep.portion = bits_made_at_once(problem);
    return keep;
}

void take_keep_bits(Scratch& scratch, const Blocks& blocks, const BlockSweep& sweep, bool alone, BoundProblem& group) {
    const Geometry& g = group.geometry;
    const bool normalised_flat = g.flat && (g.rows || g.inner < numerics::kLanes);
    if (!group.has_dropout() || normalised_flat || group.where.bits != nullptr) return;
    constexpr std::int64_t kSlackWords = 16;  // the count, and what begins and ends between two batches of elements
    if (g.rows) {
        const bool by_batches = g.channels % kWholeBatches == 0 && sweep.channel_step % kWholeBatches == 0;
        if (alone || by_batches || sweep.channel_tasks() == 1) {
            group.kept_bits = scratch.take<std::uint64_t>(g.outer * g.channels / 64 + kSlackWords);
        }
        return;
    }
    constexpr std::int64_t kLongRun = 1024;  // elements, beside which the slack is little
    static_assert(kLongRun >= kWholeBatches, "no outer index is shorter than a batch");
    const bool by_outer = sweep.channel_tasks() == 1 && sweep.block_step % blocks.pieces == 0;
    if (!alone && (!by_outer || g.channels * g.inner < kLongRun)) return;
    group.kept_bits_pitch = g.channels * g.inner / 64 + kSlackWords;
    group.kept_bits = scratch.take<std::uint64_t>(g.outer * group.kept_bits_pitch);
    for (std::int64_t o = 0; o < g.outer; ++o) group.kept_bits[o * group.kept_bits_pitch] = 0;
}

}  // namespace bnfast::cpu
