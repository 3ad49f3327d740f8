// y = dropout(act(gamma * (x - mean) * invstd + beta + residual)), zero where `where` is false; and before the norm,
// h = residual + dropout(x) in place of x. Also the statistics alone, and y with given ones.
#pragma once

#include "cuda/kernels/activation.h"
#include "cuda/kernels/coefficients.h"
#include "cuda/kernels/mask.h"
#include "cuda/kernels/moments.h"

namespace bnfast::cuda {

template <class W>
struct ForwardKernel {
    using S = typename W::S;
    using T = typename W::T;
    using Vector = typename W::Vector;
    static constexpr int kStatistics = W::kStatistics, kCount = W::kCount;
    static constexpr int kTiles = 1;  // operands that are staged

    NormTask task;

    BNFAST_DEVICE void operator()() const {
        const W walk{task};
        Team team(task.work, statistics_of_unit(W::kRows));
        const std::int64_t first = team.first_item(team.rank()), last = team.first_item(team.rank() + 1);
        Parameters<W> parameters(walk, walk.unit(team.first_unit()), kTiles);
        parameters.stage(walk.unit(team.first_unit()), first, last);
        for (std::int64_t number = team.first_unit(); number < task.work.units; number += team.unit_step()) {
            const Unit unit = walk.unit(number);
            parameters.set_unit(unit);
            Coefficients<W> coefficients(walk, unit);
            if (task.measures) {
                measure(walk, team, unit, first, last, coefficients);
            } else {
                for (int k = 0; k < kStatistics; ++k) coefficients.set(k, given(walk, team, unit, coefficients, k));
            }
            if (task.writes) write_all(walk, unit, first, last, coefficients, parameters);
        }
    }

  private:
    // --- statistics ---

    BNFAST_DEVICE void measure(const W& walk, Team& team, const Unit& unit, std::int64_t first, std::int64_t last,
                               Coefficients<W>& coefficients) const {
        Measurement<W> measurement(walk, team, unit, first, last);
        const auto measured = measurement.measure(
            [&](std::int64_t begin, std::int64_t end) { stage_tile(walk, unit, begin, end, true); });
        for (int k = 0; k < kStatistics; ++k) {
            const auto& moments = measured.of[k];
            Numbers numbers{
                measured.count, moments.mean, moments.mean_low, moments.m2, measurement.invstd(k), 1.0, 0.0};
            if (team.rank() == 0 && walk.is_first_of_class()) store(walk, unit, k, numbers);
            if (!task.writes) continue;  // and there are no parameters
            coefficients.set_parameters(k, numbers);
            coefficients.set(k, numbers);
        }
    }
    BNFAST_DEVICE void store(const W& walk, const Unit& unit, int k, const Numbers& numbers) const {
        if (!walk.has_statistic(unit, k)) return;
        const StatisticsTask& s = task.statistics;
        const std::int64_t i = walk.statistic(unit, k);
        s.count[i] = numbers.count;
        s.mean[i] = numbers.mean;
        s.mean_low[i] = numbers.mean_low;
        s.m2[i] = numbers.m2;
        s.invstd[i] = numbers.invstd;
    }
    // Statistics that are there, but for invstd.
    BNFAST_DEVICE Numbers given(const W& walk, const Team& team, const Unit& unit, const Coefficients<W>& coefficients,
                                int k) const {
        Numbers numbers = coefficients.from_state(k);
        const double var = numerics::variance(numbers.m2, numbers.count);
        numbers.invstd = numerics::invstd_of(var, task.eps, task.placement);
        if (team.rank() == 0 && walk.is_first_of_class() && walk.has_statistic(unit, k)) {
            task.statistics.invstd[walk.statistic(unit, k)] = numbers.invstd;
        }
        return numbers;
    }

    // --- tiles ---

    // Brings what is normalised into shared memory: x, or h, which is computed and, the first time, written.
    BNFAST_DEVICE void stage_tile(const W& walk, const Unit& unit, std::int64_t first, std::int64_t last,
                                  bool write_h) const {
        S* const tile = walk.tile(0);
        if (W::kPlain || !task.input.is_there()) {
            walk.stage(task.x, tile, unit, first, last);
            wait_for_copies();
            return;
        }
        struct Run {
            const S *input, *residual;
            S* h;
            OpenedMask mask;
        };
        const Dropper<W> dropper(walk, task.mask_before);
        walk.for_each_vector(
            unit, first, last,
            [&](const Place& p) {
                return Run{walk.at(task.input, p), walk.at_if_any(task.input_residual, p), walk.at(task.x, p),
                           dropper.open(p)};
            },
            [&](const Run& run, std::int64_t i, std::int64_t slot) {
                const Vector x = load_global<Vector>(run.input + i);
                Vector residual{}, h;
                if (run.residual != nullptr) residual = load_global<Vector>(run.residual + i);
                for (int e = 0; e < kCount; ++e) {
                    T value = decode(x.element[e]);
                    if (dropper.used()) value = dropper.drop(run.mask, i, e, value);
                    if (run.residual != nullptr) value = value + decode(residual.element[e]);
                    h.element[e] = encode<S>(value);
                }
                *reinterpret_cast<Vector*>(tile + slot) = h;
                if (write_h) store_global(run.h + i, h);
            });
    }

    BNFAST_DEVICE void write_all(const W& walk, const Unit& unit, std::int64_t first, std::int64_t last,
                                 const Coefficients<W>& coefficients, const Parameters<W>& parameters) const {
        if (task.work.tile_items == 0) return write(walk, unit, first, last, nullptr, coefficients, parameters);
        walk.for_each_tile_back(first, last, [&](std::int64_t begin, std::int64_t end, bool is_staged) {
            if (!is_staged) stage_tile(walk, unit, begin, end, false);
            write(walk, unit, begin, end, walk.tile(0), coefficients, parameters);
        });
    }

    // --- y ---

    BNFAST_DEVICE void write(const W& walk, const Unit& unit, std::int64_t first, std::int64_t last, const S* staged,
                             const Coefficients<W>& coefficients, const Parameters<W>& parameters) const {
        struct Run {
            const S *x, *residual;
            S* y;
            const std::uint8_t* where;
            OpenedMask mask;
            typename Parameters<W>::Run parameters;
        };
        const Dropper<W> dropper(walk, task.mask);
        const ActivationOf<T, W::kPlain> activation{task.activation, static_cast<T>(task.slope)};
        walk.for_each_vector(
            unit, first, last,
            [&](const Place& p) {
                return Run{walk.at(task.x, p), walk.at_if_any(task.residual, p),
                           walk.at(task.y, p), walk.open_where(p),
                           dropper.open(p),    parameters.open(p)};
            },
            [&](const Run& run, std::int64_t i, std::int64_t slot) {
                const Vector x = staged != nullptr ? walk.load_staged(staged, slot) : load_global<Vector>(run.x + i);
                Vector residual{}, y;
                if (run.residual != nullptr) residual = load_global<Vector>(run.residual + i);
                for (int e = 0; e < kCount; ++e) {
                    const auto& affine = coefficients.affine(e);
                    T z = affine.apply(affine.centre(decode(x.element[e])));
                    if (parameters.used()) {
                        z = numerics::ScaleAndShift<T>{parameters.gamma(run.parameters, i, slot, e),
                                                       parameters.beta(run.parameters, i, slot, e)}
                                .apply(z);
                    }
                    if (run.residual != nullptr) z = z + decode(residual.element[e]);
                    T value = activation.forward(z);
                    if (dropper.used()) value = dropper.drop(run.mask, i, e, value);
                    if (!walk.takes_part(run.where, i, e)) value = T(0);
                    y.element[e] = encode<S>(value);
                }
                store_global(run.y + i, y);
            });
    }
};

}  // namespace bnfast::cuda
