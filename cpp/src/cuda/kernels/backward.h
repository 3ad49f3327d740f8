// Gradients (Ioffe & Szegedy 2015, section 3): with dz the gradient at the affine's output, which is computed again
// from x (or from y, where forward wrote it over x),
//   dx = gamma * invstd * (dz - mean(dz) - (x - mean) * projection),  dresidual = dz,
// where the projection is invstd^2 * mean(dz * (x - mean)). Where one statistic serves several gammas, dz * gamma takes
// the place of dz, and 1 that of gamma (Ba, Kiros & Hinton 2016; Wu & He 2018). dh, the gradient that reaches x by
// another way, is added to dx. Also the sums alone.
#pragma once

#include "cuda/kernels/parameter_sums.h"
#include "cuda/kernels/team.h"

namespace bnfast::cuda {

template <class W>
struct BackwardKernel {
    using S = typename W::S;
    using T = typename W::T;
    using Vector = typename W::Vector;
    static constexpr int kStatistics = W::kStatistics, kCount = W::kCount;

    NormTask task;

    BNFAST_DEVICE void operator()() const {
        const W walk{task};
        Team team(task.work, statistics_of_unit(W::kRows));
        const std::int64_t first = team.first_item(team.rank()), last = team.first_item(team.rank() + 1);
        const int tiles = task.residual.is_there() ? 3 : 2;
        Parameters<W> parameters(walk, walk.unit(team.first_unit()), tiles);
        parameters.stage(walk.unit(team.first_unit()), first, last);
        ParameterSums<W> parameter_sums(walk, tiles);
        parameter_sums.begin(walk.unit(team.first_unit()), first, last);
        for (std::int64_t number = team.first_unit(); number < task.work.units; number += team.unit_step()) {
            const Unit unit = walk.unit(number);
            parameters.set_unit(unit);
            Statistics statistics(walk, unit);
            const Block block{walk, unit, first, last, statistics, parameters};
            sum(block, team, parameter_sums);
            finish_sums(block, team);
            if (task.sums) continue;
            Gradient gradient[kStatistics];
            for (int k = 0; k < kStatistics; ++k) gradient[k] = statistics.gradient(k);
            write_all(block, gradient);
            parameter_sums.end_unit(unit, first, last, team.first_unit());
        }
        parameter_sums.end(walk.unit(team.first_unit()), first, last, team.first_unit());
    }

  private:
    using Gradient = numerics::DxCoefficients<T, double>;
    using Gradients = GradientAtAffine<W>;

    // The statistics of a thread, and sums over their elements: of dz, and of dz * (x - mean) * prescale. Other numbers
    // are read again when they are needed: registers are few.
    struct Statistics {
        BNFAST_DEVICE Statistics(const W& w, const Unit& u) : walk(w), unit(u), coefficients(w, u) {
            for (int k = 0; k < kStatistics; ++k) {
                const Numbers numbers = coefficients.from_state(k);
                coefficients.set(k, numbers);
                mean[k] = numbers.mean * prescale(k);
            }
        }
        BNFAST_DEVICE double prescale(int k) const { return numerics::widen(coefficients.affine(k).prescale); }
        // Of float32 and 16-bit x, with digits that x - mean has not in float32.
        BNFAST_DEVICE double deviation(T x, int k) const { return numerics::widen(x) * prescale(k) - mean[k]; }
        BNFAST_DEVICE Gradient gradient(int k) const {
            const NormTask& task = walk.task;
            const Numbers n = coefficients.from_state(k);
            const double squared =
                task.placement == EpsPlacement::kVar
                    ? numerics::squared_invstd_of(n.invstd, prescale(k))
                    : numerics::squared_invstd_beside_eps(n.invstd, prescale(k), n.m2, n.count, task.eps);
            double count = n.count, dz = sum_dz[k], dz_xmu = sum_dz_xmu[k];
            if (task.total_count != nullptr && walk.has_statistic(unit, k)) {
                const std::int64_t i = walk.statistic(unit, k);
                count = task.total_count[i];
                dz = task.total_dz[i];
                dz_xmu = task.total_dz_xmu[i] * prescale(k);
            }
            if (task.constant_statistics) count = 0.0;
            if (task.centre == Centre::kZero) dz = 0.0;
            return numerics::dx_coefficients<T>(count, dz, dz_xmu, squared, n.invstd, n.gamma);
        }

        const W& walk;
        const Unit& unit;
        Coefficients<W> coefficients;
        double mean[kStatistics];  // of x * prescale
        double sum_dz[kStatistics] = {}, sum_dz_xmu[kStatistics] = {};
    };

    // What a block works on.
    struct Block {
        const W& walk;
        const Unit& unit;
        std::int64_t first, last;
        Statistics& statistics;
        const Parameters<W>& parameters;
    };

    // --- tiles ------------------------------------------------------------------------------------------------------

    // Calls body(run, i, slot, elements) for the vectors of a staged tile; run is that of open(place).
    template <class Open, class Body>
    BNFAST_DEVICE void for_each_vector(const Block& b, std::int64_t first, std::int64_t last, const Open& open,
                                       const Body& body) const {
        const Gradients gradients(b.walk, b.statistics.coefficients, b.parameters);
        const bool has_residual = task.residual.is_there();
        struct Opened {
            typename Gradients::Run inputs;
            decltype(open(Place{})) others;
        };
        b.walk.for_each_vector(
            b.unit, first, last, [&](const Place& p) { return Opened{gradients.open(p), open(p)}; },
            [&](const Opened& run, std::int64_t i, std::int64_t slot) {
                const Vector x = b.walk.load_staged(b.walk.tile(0), slot);
                const Vector dy = b.walk.load_staged(b.walk.tile(1), slot);
                Vector residual{};
                if (has_residual) residual = b.walk.load_staged(b.walk.tile(2), slot);
                typename Gradients::Element elements[kCount];
                for (int e = 0; e < kCount; ++e) {
                    elements[e] =
                        gradients.at(run.inputs, i, slot, e, x.element[e], dy.element[e], residual.element[e]);
                }
                body(run.others, i, slot, elements, gradients);
            });
    }

    BNFAST_DEVICE void stage(const Block& b, std::int64_t first, std::int64_t last) const {
        b.walk.stage(task.x, b.walk.tile(0), b.unit, first, last);
        b.walk.stage(task.dy, b.walk.tile(1), b.unit, first, last);
        if (task.residual.is_there()) b.walk.stage(task.residual, b.walk.tile(2), b.unit, first, last);
        wait_for_copies();
    }

    // --- sums -------------------------------------------------------------------------------------------------------

    BNFAST_DEVICE void sum(const Block& b, Team& team, ParameterSums<W>& parameter_sums) const {
        double sums[2 * kStatistics] = {};
        b.walk.for_each_tile(b.first, b.last, [&](std::int64_t begin, std::int64_t end) {
            stage(b, begin, end);
            for_each_vector(
                b, begin, end, [](const Place&) { return 0; },
                [&](int, std::int64_t, std::int64_t slot, const auto* elements, const Gradients& gradients) {
                    for (int e = 0; e < kCount; ++e) {
                        const int k = W::kRows ? e : 0;
                        const auto& a = elements[e];
                        if (!a.takes_part) continue;  // x may be anything there
                        const double weighted = numerics::widen(task.sums ? a.dz : a.dz * a.weight);
                        const double xmu = sizeof(T) == 8 || (!W::kPlain && task.from_output)
                                               ? numerics::widen(a.centred)
                                               : b.statistics.deviation(a.x, k);
                        sums[2 * k] += weighted;
                        sums[2 * k + 1] += weighted * xmu;
                        parameter_sums.add(slot + e, a.dz, gradients.normalised(a, e));
                    }
                });
        });
        reduce<Add>(sums, b.walk.classes(), b.walk.scratch());
        total_of_team(b, team, sums);
        for (int k = 0; k < kStatistics; ++k) {
            b.statistics.sum_dz[k] = sums[2 * k];
            b.statistics.sum_dz_xmu[k] = sums[2 * k + 1];
        }
    }
    BNFAST_DEVICE void total_of_team(const Block& b, Team& team, double (&sums)[2 * kStatistics]) const {
        if (team.size() == 1) return;
        const int classes = b.walk.classes(), own = b.walk.own_statistic();
        for (int k = 0; k < kStatistics && b.walk.is_first_of_class(); ++k) {
            team.numbers(team.rank(), own + k)[0] = sums[2 * k];
            team.numbers(team.rank(), own + k)[1] = sums[2 * k + 1];
        }
        team.meet();
        for (double& sum : sums) sum = 0.0;
        for (int rank = thread_index() / classes; rank < team.size(); rank += thread_count() / classes) {
            for (int k = 0; k < kStatistics; ++k) {
                sums[2 * k] += load_shared_by_blocks(team.numbers(rank, own + k));
                sums[2 * k + 1] += load_shared_by_blocks(team.numbers(rank, own + k) + 1);
            }
        }
        team.end_meeting();
        reduce<Add>(sums, classes, b.walk.scratch());
    }
    // The results that are sums of a statistic, by one thread of the team.
    BNFAST_DEVICE void finish_sums(const Block& b, const Team& team) const {
        const Statistics& statistics = b.statistics;
        if (team.rank() != 0 || !b.walk.is_first_of_class()) return;
        for (int k = 0; k < kStatistics; ++k) {
            if (!b.walk.has_statistic(b.unit, k)) continue;
            const std::int64_t i = W::kRows ? b.walk.statistic(b.unit, k) : b.unit.number;  // of the channel
            const double dz_xmu = statistics.sum_dz_xmu[k] / statistics.prescale(k);
            if (task.sum_dz != nullptr) {
                task.sum_dz[i] = statistics.sum_dz[k];
                task.sum_dz_xmu[i] = dz_xmu;
            }
            if (task.dgamma != nullptr) {
                task.dbeta[i] = statistics.sum_dz[k];
                const double invstd = statistics.coefficients.from_state(k).invstd;
                task.dgamma[i] = statistics.sum_dz_xmu[k] * (invstd / statistics.prescale(k));
            }
        }
    }

    // --- dx ---------------------------------------------------------------------------------------------------------

    BNFAST_DEVICE void write_all(const Block& b, const Gradient* gradient) const {
        b.walk.for_each_tile_back(b.first, b.last, [&](std::int64_t begin, std::int64_t end, bool is_staged) {
            if (!is_staged) stage(b, begin, end);
            write(b, begin, end, gradient);
        });
    }
    BNFAST_DEVICE void write(const Block& b, std::int64_t first, std::int64_t last, const Gradient* gradient) const {
        struct Run {
            OpenedMask mask;
            const S* dh;
            S *dx, *dresidual;
        };
        const Dropper<W> before(b.walk, task.mask_before);
        for_each_vector(
            b, first, last,
            [&](const Place& p) {
                return Run{before.open(p), b.walk.at_if_any(task.dh, p), b.walk.at(task.dx, p),
                           b.walk.at_if_any(task.dresidual, p)};
            },
            [&](const Run& run, std::int64_t i, std::int64_t, const auto* elements, const Gradients&) {
                Vector dh{}, dx, dresidual;
                if (run.dh != nullptr) dh = load_global<Vector>(run.dh + i);
                for (int e = 0; e < kCount; ++e) {
                    const Gradient& g = gradient[W::kRows ? e : 0];
                    const auto& a = elements[e];
                    T result =
                        numerics::gradient_at_input(a.dz * a.weight, a.centred, g.mean_dz, g.projection, g.dx_scale);
                    if (run.dh != nullptr) result = result + decode(dh.element[e]);
                    T other = a.dz;
                    if (before.used()) {
                        other = result;
                        result = before.drop(run.mask, i, e, result);
                    }
                    dx.element[e] = encode<S>(a.takes_part ? result : T(0));
                    dresidual.element[e] = encode<S>(other);
                }
                store_global(run.dx + i, dx);
                if (run.dresidual != nullptr) store_global(run.dresidual + i, dresidual);
            });
    }
};

}  // namespace bnfast::cuda
