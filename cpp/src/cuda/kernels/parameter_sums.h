// dgamma and dbeta where parameters lie along the inner elements (layer norm): sums over the units that a team takes,
// kept in shared memory, and in the end left in global memory, from where those of all teams are put together.
#pragma once

#include "cuda/kernels/gradient.h"
#include "cuda/kernels/team.h"

namespace bnfast::cuda {

// Of what parameter sums are. Those of 16-bit gradients are added in float32, so many one after the other, and only
// what comes of that in float64.
template <class S>
struct ParameterSumOf {
    using Type = double;
    static constexpr int kRun = 1 << 30;
};
template <>
struct ParameterSumOf<Half> {
    using Type = float;
    static constexpr int kRun = 16;
};
template <>
struct ParameterSumOf<BFloat16> : ParameterSumOf<Half> {};

template <class W>
class ParameterSums {
    using T = typename W::T;
    using Sum = typename ParameterSumOf<typename W::S>::Type;

  public:
    // `tiles_before`: staged operands. Unused where the task has no memory for the results.
    BNFAST_DEVICE ParameterSums(const W& walk, int tiles_before)
        : walk_(walk), used_(!W::kRows && walk.task.parameter_partials != nullptr) {
        const std::int64_t elements = walk.work().tile_items * walk.work().piece;
        dbeta_ = reinterpret_cast<Sum*>(reinterpret_cast<T*>(walk.tile(tiles_before)) + 2 * elements);
        dgamma_ = dbeta_ + elements;
    }
    // What is in the slots of this thread's elements of items [first, last), which are the same for all units.
    BNFAST_DEVICE void begin(const Unit& unit, std::int64_t first, std::int64_t last) {
        if (!used_) return;
        for_each_slot(unit, first, last, [&](std::int64_t, std::int64_t slot) { dbeta_[slot] = dgamma_[slot] = 0; });
    }
    BNFAST_DEVICE void add(std::int64_t slot, T dz, T normalised) {
        if (!used_) return;
        dbeta_[slot] += static_cast<Sum>(dz);
        dgamma_[slot] += static_cast<Sum>(dz) * static_cast<Sum>(normalised);
    }
    BNFAST_DEVICE void end_unit(const Unit& unit, std::int64_t first, std::int64_t last, std::int64_t team) {
        if (!used_ || ++units_ < ParameterSumOf<typename W::S>::kRun) return;
        end(unit, first, last, team);
        begin(unit, first, last);
    }
    // Adds to the numbers of this team, which began as zeros.
    BNFAST_DEVICE void end(const Unit& unit, std::int64_t first, std::int64_t last, std::int64_t team) {
        if (!used_) return;
        units_ = 0;
        const std::int64_t count = walk_.task.parameter_count;
        double* const dbeta = walk_.task.parameter_partials + team * 2 * count;
        for_each_slot(unit, first, last, [&](std::int64_t parameter, std::int64_t slot) {
            dbeta[parameter] += static_cast<double>(dbeta_[slot]);
            dbeta[count + parameter] += static_cast<double>(dgamma_[slot]);
        });
    }

  private:
    template <class F>
    BNFAST_DEVICE void for_each_slot(const Unit& unit, std::int64_t first, std::int64_t last, const F& f) const {
        walk_.for_each_vector(
            unit, first, last, [](const Place& p) { return p.inner; },
            [&](std::int64_t inner, std::int64_t i, std::int64_t slot) {
                for (int e = 0; e < W::kCount; ++e) f(inner + i + e, slot + e);
            });
    }

    const W& walk_;
    bool used_;
    Sum *dbeta_, *dgamma_;
    int units_ = 0;
};

// The same where that does not fit, and where the parameters of a unit depend on its number: a thread for each
// parameter and part of the rows that have it, which computes dz again.
template <class W>
struct ParameterSumsKernel {
    using S = typename W::S;
    static_assert(W::kCount == 1 && !W::kRows);

    NormTask task;
    std::int64_t rows = 0;  // of a parameter: of the channels of all boxes that have it, and their outer indices
    int parts = 1;          // of them

    BNFAST_DEVICE void operator()() const {
        const std::int64_t blocks = (task.parameter_count + thread_count() - 1) / thread_count();
        const std::int64_t part = block_index() / blocks;
        const std::int64_t parameter = (block_index() - part * blocks) * thread_count() + thread_index();
        if (parameter >= task.parameter_count) return;
        const W walk{task};
        const std::int64_t period = task.parameter_count / task.inner;
        const std::int64_t i = parameter % task.inner;
        double dbeta = 0.0, dgamma = 0.0;
        for (std::int64_t row = rows * part / parts; row < rows * (part + 1) / parts; ++row) {
            const std::int64_t outer = row % task.outer;
            const std::int64_t number = row / task.outer * period + parameter / task.inner;
            const Unit unit = walk.unit(number);
            const Parameters<W> parameters(walk, unit, 0);
            Coefficients<W> coefficients(walk, unit);
            coefficients.set(0, coefficients.from_state(0));
            const GradientAtAffine<W> gradient(walk, coefficients, parameters);
            const Place place{unit.box, outer, unit.channel, 0};
            const S residual = task.residual.is_there() ? walk.at(task.residual, place)[i] : S{};
            const auto a = gradient.at(gradient.open(place), i, 0, 0, walk.at(task.x, place)[i],
                                       walk.at(task.dy, place)[i], residual);
            dbeta += numerics::widen(a.dz);
            dgamma += numerics::widen(a.dz) * numerics::widen(gradient.normalised(a, 0));
        }
        double* const to = task.parameter_partials + part * 2 * task.parameter_count;
        to[parameter] = dbeta;
        to[task.parameter_count + parameter] = dgamma;
    }
};

}  // namespace bnfast::cuda
