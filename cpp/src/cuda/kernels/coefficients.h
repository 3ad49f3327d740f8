// What the elements of a thread's statistics are scaled with, and the parameters where these are not a statistic's own.
#pragma once

#include "cuda/kernels/walk.h"
#include "numerics/affine.h"
#include "numerics/coefficients.h"

namespace bnfast::cuda {

// The numbers of a statistic.
struct Numbers {
    double count, mean, mean_low, m2, invstd, gamma, beta;
};

template <class W>
class Coefficients {
    using T = typename W::T;

  public:
    using Affine = numerics::AffineMap<T>;

    BNFAST_DEVICE Coefficients(const W& walk, const Unit& unit) : walk_(walk), unit_(unit) {}

    // gamma and beta of the statistic of number k: 1 and 0 where they come behind the affine map.
    BNFAST_DEVICE void set_parameters(int k, Numbers& numbers) const {
        const NormTask& task = walk_.task;
        numbers.gamma = 1.0;
        numbers.beta = 0.0;
        if (task.parameters != ParametersAre::kOfStatistic || !walk_.has_statistic(unit_, k)) return;
        const std::int64_t channel = unit_.channel + (W::kRows ? walk_.lane() * W::kCount + k : 0);
        numbers.gamma = task.statistics.gamma[channel];
        numbers.beta = task.statistics.beta[channel];
    }
    // The numbers that the state holds.
    BNFAST_DEVICE Numbers from_state(int k) const {
        Numbers numbers{0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0};
        if (!walk_.has_statistic(unit_, k)) return numbers;
        const StatisticsTask& s = walk_.task.statistics;
        const std::int64_t i = walk_.statistic(unit_, k);
        numbers = {s.count[i], s.mean[i], s.mean_low[i], s.m2[i], s.invstd[i], 1.0, 0.0};
        set_parameters(k, numbers);
        return numbers;
    }
    BNFAST_DEVICE void set(int k, const Numbers& n) {
        const auto c = numerics::affine_coefficients<T>(n.mean, n.mean_low, n.invstd, n.gamma, n.beta);
        affine_[k] = {c.mean_high,
                      c.mean_low,
                      c.scale,
                      c.shift,
                      !W::kPlain && walk_.task.from_output ? numerics::inverse_scale<T>(c.exact_scale) : T(1),
                      c.exact_prescale != 1.0,
                      c.prescale};
    }
    // Of element e of a vector.
    BNFAST_DEVICE const Affine& affine(int e) const { return affine_[W::kRows ? e : 0]; }

  private:
    const W& walk_;
    const Unit& unit_;
    Affine affine_[W::kStatistics];
};

// gamma and beta that come behind the affine map: of a channel, or along the inner elements, where a block may have
// staged them as the elements of its tile lie.
template <class W>
class Parameters {
    using T = typename W::T;

  public:
    struct Run {
        std::int64_t first;
        int step;
    };

    // `tiles_before`: staged operands.
    BNFAST_DEVICE Parameters(const W& walk, const Unit& unit, int tiles_before)
        : walk_(walk), used_(walk.task.parameters != ParametersAre::kOfStatistic) {
        staged_ = reinterpret_cast<T*>(walk.tile(tiles_before));
        tile_elements_ = walk.work().tile_items * walk.work().piece;
        set_unit(unit);
    }
    BNFAST_DEVICE void set_unit(const Unit& unit) {
        if (walk_.task.parameters != ParametersAre::kAlongInner) return;
        // Number n of all statistics has the parameters from n * inner on, modulo all.
        unit_first_ = unit.number * walk_.task.inner % walk_.task.parameter_count;
    }
    // Once for each block that stages them.
    BNFAST_DEVICE void stage(const Unit& unit, std::int64_t first, std::int64_t last) {
        if (W::kRows || !walk_.work().parameters_staged) return;
        walk_.for_each_vector(
            unit, first, last, [&](const Place& p) { return p.inner; },
            [&](std::int64_t inner, std::int64_t i, std::int64_t slot) {
                for (int e = 0; e < W::kCount; ++e) {
                    staged_[slot + e] = static_cast<T>(walk_.task.statistics.gamma[inner + i + e]);
                    staged_[tile_elements_ + slot + e] = static_cast<T>(walk_.task.statistics.beta[inner + i + e]);
                }
            });
    }

    BNFAST_DEVICE bool used() const { return !W::kRows && used_; }
    BNFAST_DEVICE Run open(const Place& p) const {
        if (walk_.task.parameters == ParametersAre::kAlongInner) return {unit_first_ + p.inner, 1};
        return {p.channel, 0};
    }
    BNFAST_DEVICE T gamma(const Run& run, std::int64_t i, std::int64_t slot, int e) const {
        if (walk_.work().parameters_staged) return staged_[slot + e];
        return static_cast<T>(walk_.task.statistics.gamma[run.first + (i + e) * run.step]);
    }
    BNFAST_DEVICE T beta(const Run& run, std::int64_t i, std::int64_t slot, int e) const {
        if (walk_.work().parameters_staged) return staged_[tile_elements_ + slot + e];
        return static_cast<T>(walk_.task.statistics.beta[run.first + (i + e) * run.step]);
    }

  private:
    const W& walk_;
    bool used_;
    T* staged_;
    std::int64_t tile_elements_, unit_first_ = 0;
};

}  // namespace bnfast::cuda
