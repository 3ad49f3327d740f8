// Sums over the threads of a block, and what the blocks of a team tell each other. All in a fixed order.
#pragma once

#include "cuda/kernels/task.h"

namespace bnfast::cuda {

struct Add {
    BNFAST_DEVICE double operator()(double a, double b) const { return a + b; }
};
struct Larger {
    BNFAST_DEVICE double operator()(double a, double b) const { return a > b ? a : b; }
};

// values[k] becomes that of all threads whose number is the same modulo `classes`, a power of two up to 32, put
// together. All threads of the block call it. `scratch` is free again when it returns.
template <class Operation, int kValues>
BNFAST_DEVICE void reduce(double (&values)[kValues], int classes, double* scratch) {
    const Operation together;
    for (int mask = classes; mask < kWarp; mask *= 2) {
        for (int k = 0; k < kValues; ++k) values[k] = together(values[k], shuffle_xor(values[k], mask));
    }
    const int warps = thread_count() / kWarp;
    if (warps == 1) return;
    const int warp = thread_index() / kWarp, lane = thread_index() % kWarp, own = lane & (classes - 1);
    if (lane < classes) {
        for (int k = 0; k < kValues; ++k) scratch[(warp * classes + lane) * kValues + k] = values[k];
    }
    barrier();
    for (int k = 0; k < kValues; ++k) {
        double all = scratch[own * kValues + k];
        for (int w = 1; w < warps; ++w) all = together(all, scratch[(w * classes + own) * kValues + k]);
        values[k] = all;
    }
    barrier();
}

// Numbers of a block for the others of its team: of each statistic so many, one behind the other.
constexpr int kExchanged = 4;

// The blocks that work on a unit together.
class Team {
  public:
    // `statistics`: at most so many of a block.
    BNFAST_DEVICE Team(const Work& work, int statistics)
        : work_(work),
          statistics_(statistics),
          number_(block_index() / work.team),
          rank_(static_cast<int>(block_index() - number_ * work.team)) {}

    BNFAST_DEVICE std::int64_t first_unit() const { return number_; }
    BNFAST_DEVICE std::int64_t unit_step() const { return block_count() / work_.team; }
    BNFAST_DEVICE int rank() const { return rank_; }
    BNFAST_DEVICE int size() const { return work_.team; }
    BNFAST_DEVICE std::int64_t first_item(int rank) const { return work_.items * rank / work_.team; }

    // Where a block leaves its numbers of a statistic before the next meeting, and where they are found behind it.
    BNFAST_DEVICE double* numbers(int rank, int statistic) const {
        const std::int64_t area = (number_ * 2 + (meetings_ & 1U)) * work_.team + rank;
        return work_.exchange + (area * statistics_ + statistic) * kExchanged;
    }
    // All blocks arrive before any goes on. There are two areas of numbers: who writes into one again has been at a
    // later meeting, to which nobody came before having read it.
    BNFAST_DEVICE void meet() const {
        barrier();
        if (thread_index() == 0) {
            fence();  // also for what the others wrote before the barrier
            const std::uint32_t all = (meetings_ + 1) * static_cast<std::uint32_t>(work_.team);
            atomic_add(work_.arrivals + number_, 1);
            while (load_acquire(work_.arrivals + number_) < all) pause();
        }
        barrier();
    }
    BNFAST_DEVICE void end_meeting() { ++meetings_; }

  private:
    const Work& work_;
    int statistics_;
    std::int64_t number_;
    int rank_;
    std::uint32_t meetings_ = 0;
};

}  // namespace bnfast::cuda
