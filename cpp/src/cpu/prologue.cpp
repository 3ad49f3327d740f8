// What stands before the norm, on the CPU: h = residual + dropout(x), and dx from the gradient at h.
#include "cpu/prologue.h"

#include <algorithm>
#include <initializer_list>

#include "cpu/coefficients.h"
#include "cpu/parallel.h"

namespace bnfast::cpu {
namespace {

// to = residual + dropout(from), channel by channel, or as one run where channels touch. A residual without data is
// none.
void drop_and_add(const BoundProblem& problem, const Operand& from, const Operand& residual, const Operand& to,
                  int threads) {
    constexpr std::int64_t kPiece = 65536;  // elements
    const Geometry& g = problem.geometry;
    if (problem.elements() == 0) return;
    bool touch = true;
    for (const Operand* operand : {&from, &residual, &to}) {
        touch = touch && (operand->data == nullptr || operand->channel_stride == g.inner);
    }
    const std::int64_t length = touch ? problem.elements() : g.inner, runs = touch ? 1 : g.channels;
    const std::int64_t pieces = (length + kPiece - 1) / kPiece, item = item_size(problem.dtype);
    parallel_for(runs * pieces, threads, [&](std::int64_t task) {
        const std::int64_t channel = task / pieces, begin = task % pieces * kPiece;
        const auto address = [&](const Operand& operand) {
            return static_cast<char*>(operand.data) + (channel * operand.channel_stride + begin) * item;
        };
        PrologueRun run;
        run.x = address(from);
        run.has_residual = residual.data != nullptr;
        if (run.has_residual) run.residual = address(residual);
        run.h = address(to);
        run.n = std::min(kPiece, length - begin);
        run.drops = problem.prologue.dropout.keep != kKeepAll;
        run.mask = problem.prologue.dropout;
        run.index = (problem.first_channel + channel) * g.inner + begin;
        run.scale = problem.prologue.dropout_scale;
        kernels_of(problem).prologue(run);
    });
}

}  // namespace

void apply_prologue(const BoundProblem& problem, int threads) {
    drop_and_add(problem, problem.input, problem.input_residual, problem.x, threads);
}

void apply_prologue_backward(const BoundProblem& problem, const Operand& gradient, int threads) {
    drop_and_add(problem, gradient, Operand{}, problem.dx, threads);
}

}  // namespace bnfast::cpu
