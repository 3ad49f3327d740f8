// What stands before the norm, on the CPU: h = residual + dropout(x).
#include "cpu/prologue.h"

#include <algorithm>

#include "cpu/coefficients.h"
#include "cpu/schedule.h"

namespace bnfast::cpu {

PrologueTask prologue_task(const BoundProblem& problem) {
    PrologueTask task;
    task.used = problem.prologue.used;
    task.x = problem.input;
    task.residual = problem.input_residual;
    task.h = problem.x;
    task.drops = problem.prologue.dropout.keep != kKeepAll;
    task.mask = problem.prologue.dropout;
    task.first_channel = problem.first_channel;
    task.scale = problem.prologue.dropout_scale;
    return task;
}

void apply_prologue(const BoundProblem& problem, int threads) {
    constexpr std::int64_t kPiece = 65536;  // elements
    const Geometry& g = problem.geometry;
    if (problem.elements() == 0) return;
    const PrologueTask task = prologue_task(problem);
    const std::int64_t channels = std::clamp<std::int64_t>(kPiece / g.inner, 1, g.channels);
    const std::int64_t pieces = (g.inner + kPiece - 1) / kPiece;
    parallel_for((g.channels + channels - 1) / channels * pieces, threads, [&](std::int64_t k) {
        Tile tile{};
        tile.outer_end = 1;
        tile.channel_begin = k / pieces * channels;
        tile.channel_end = std::min(tile.channel_begin + channels, g.channels);
        tile.inner_begin = k % pieces * kPiece;
        tile.inner_end = std::min(tile.inner_begin + kPiece, g.inner);
        kernels_of(problem).prologue(task, g, tile);
    });
}

MaskTask mask_before(const BoundProblem& problem) {
    MaskTask mask;
    mask.used = problem.prologue.used;
    mask.dropout = problem.prologue.dropout;
    mask.all_channels = problem.all_channels;
    mask.first_channel = problem.first_channel;
    mask.scale = problem.prologue.dropout_scale;
    mask.portion = mask_portion(problem);
    return mask;
}

}  // namespace bnfast::cpu
