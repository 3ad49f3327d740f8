// Dropout on the CPU: runs of elements shared out among threads.
#include "cpu/dropout.h"

#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/plan.h"
#include "cpu/target.h"

namespace bnfast::cpu {
namespace {

using numerics::kGroup;

constexpr std::int64_t kTaskElements = 65536;

// The first mask element of each run, walked in order.
class RunIndex {
  public:
    RunIndex(const DropoutProblem& problem, std::int64_t run) : problem_(problem), at_(problem.prefix_shape.size()) {
        for (std::size_t d = at_.size(); d-- > 0;) {
            at_[d] = run % problem.prefix_shape[d];
            run /= problem.prefix_shape[d];
            index_ += at_[d] * problem.prefix_strides[d];
        }
    }
    std::uint64_t index() const { return static_cast<std::uint64_t>(index_); }
    void next() {
        for (std::size_t d = at_.size(); d-- > 0;) {
            index_ += problem_.prefix_strides[d];
            if (++at_[d] < problem_.prefix_shape[d]) return;
            index_ -= problem_.prefix_strides[d] * at_[d];
            at_[d] = 0;
        }
    }

  private:
    const DropoutProblem& problem_;
    std::vector<std::int64_t> at_;
    std::int64_t index_ = 0;
};

// The bits of whole groups, whatever the rate.
void fill_bits(const DropoutBits& bits, std::uint64_t first_group, std::int64_t groups, std::uint8_t* out) {
    if (bits.keep == 0 || bits.keep >= kKeepAll) {
        std::fill_n(out, groups * kGroup / 8, static_cast<std::uint8_t>(bits.keep == 0 ? 0 : 0xff));
    } else {
        active_target().keep_bits(bits, first_group, groups, out);
    }
}

// Single bits, with the group that they come from kept for the next.
class BitReader {
  public:
    explicit BitReader(const DropoutBits& bits) : bits_(bits) {}
    bool kept(std::uint64_t index) {
        if (index / kGroup != group_) {
            group_ = index / kGroup;
            fill_bits(bits_, group_, 1, group_bits_);
        }
        return (group_bits_[index % kGroup / 8] >> (index % 8)) & 1;
    }

  private:
    DropoutBits bits_;
    std::uint64_t group_ = ~std::uint64_t{0};
    std::uint8_t group_bits_[kGroup / 8];
};

std::int64_t runs_of(const DropoutProblem& problem) {
    return problem.geometry.rows ? problem.geometry.outer : problem.geometry.outer * problem.geometry.channels;
}
std::int64_t run_length(const DropoutProblem& problem) {
    return problem.geometry.rows ? problem.geometry.channels : problem.geometry.inner;
}

char* run_at(const DropoutProblem& problem, const Operand& operand, std::int64_t run) {
    const std::int64_t channels = problem.geometry.rows ? 1 : problem.geometry.channels;
    return static_cast<char*>(operand.data) +
           (run / channels * operand.outer_stride + run % channels * operand.channel_stride) * item_size(problem.dtype);
}

}  // namespace

void dropout(const DropoutProblem& problem) {
    const std::int64_t runs = runs_of(problem), length = run_length(problem), item = item_size(problem.dtype);
    const std::int64_t elements = runs * length;
    if (elements == 0) return;
    const int threads = static_cast<int>(std::clamp<std::int64_t>(elements / (kSerialElements / 2), 1, num_threads()));
    const bool streaming = problem.x.data != problem.y.data && exceeds_caches(elements * item);
    const auto kernel = active_target().elements[static_cast<int>(problem.dtype)].dropout;
    const bool kept = problem.bits.keep != 0;
    if (runs == 1) {
        parallel_for((length + kTaskElements - 1) / kTaskElements, threads, [&](std::int64_t task) {
            const std::int64_t begin = task * kTaskElements, n = std::min(kTaskElements, length - begin);
            BitReader reader(problem.bits);
            kernel({static_cast<char*>(problem.x.data) + begin * item,
                    static_cast<char*>(problem.y.data) + begin * item, n, problem.bits,
                    static_cast<std::uint64_t>(problem.constant_runs ? 0 : begin), problem.constant_runs,
                    problem.constant_runs ? reader.kept(0) : kept, problem.scale, problem.shift, problem.dropped,
                    streaming});
        });
        return;
    }
    const std::int64_t per_task = std::max<std::int64_t>(1, kTaskElements / length);
    parallel_for((runs + per_task - 1) / per_task, threads, [&](std::int64_t task) {
        BitReader reader(problem.bits);
        RunIndex index(problem, task * per_task);
        for (std::int64_t run = task * per_task; run < std::min(runs, (task + 1) * per_task); ++run, index.next()) {
            kernel({run_at(problem, problem.x, run), run_at(problem, problem.y, run), length, problem.bits,
                    index.index(), problem.constant_runs, problem.constant_runs ? reader.kept(index.index()) : kept,
                    problem.scale, problem.shift, problem.dropped, streaming});
        }
    });
}

void expand_mask(const DropoutProblem& problem, std::int64_t run, std::uint8_t* out) {
    std::int64_t runs = 1;
    for (const std::int64_t size : problem.prefix_shape) runs *= size;
    if (runs * run == 0) return;
    std::vector<std::uint8_t> bits((kTaskElements + 2 * kGroup) / 8);
    BitReader reader(problem.bits);
    RunIndex index(problem, 0);
    for (std::int64_t r = 0; r < runs; ++r, index.next(), out += run) {
        if (problem.constant_runs) {
            std::fill_n(out, run, static_cast<std::uint8_t>(reader.kept(index.index())));
            continue;
        }
        for (std::int64_t begin = 0; begin < run; begin += kTaskElements) {
            const std::int64_t n = std::min(kTaskElements, run - begin);
            const std::uint64_t first = index.index() + static_cast<std::uint64_t>(begin);
            const std::int64_t skip = static_cast<std::int64_t>(first % kGroup);
            fill_bits(problem.bits, first / kGroup, (skip + n + kGroup - 1) / kGroup, bits.data());
            for (std::int64_t i = 0; i < n; ++i) {
                const std::size_t bit = static_cast<std::size_t>(skip + i);
                out[begin + i] = (bits[bit / 8] >> (bit % 8)) & 1;
            }
        }
    }
}

}  // namespace bnfast::cpu
