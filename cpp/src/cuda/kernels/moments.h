// Statistics of a unit: in tiles that are staged in shared memory, each measured twice there, about a pivot near its
// mean the second time; then merged with those of the other tiles and of the other blocks (Chan, Golub & LeVeque 1979).
#pragma once

#include "cuda/kernels/team.h"
#include "cuda/kernels/walk.h"
#include "numerics/coefficients.h"
#include "numerics/extremes.h"
#include "numerics/moments.h"

namespace bnfast::cuda {

template <int kStatistics>
struct Measured {
    double count = 0.0;  // all statistics of a thread have the same
    numerics::PartMoments<double> of[kStatistics] = {};
};

template <class W>
class Measurement {
    using S = typename W::S;
    using T = typename W::T;
    static constexpr int kStatistics = W::kStatistics, kCount = W::kCount;
    using Result = Measured<kStatistics>;

  public:
    // `stage(first, last)` brings a tile of x into shared memory.
    BNFAST_DEVICE Measurement(const W& walk, Team& team, const Unit& unit, std::int64_t first, std::int64_t last)
        : walk_(walk), team_(team), unit_(unit), first_(first), last_(last) {
        for (int k = 0; k < kStatistics; ++k) {
            factor_[k] = 1.0;
            exponent_[k] = kNoExponent;
        }
    }

    template <class Stage>
    BNFAST_DEVICE Result measure(const Stage& stage) {
        Result all = of_all_tiles(stage);
        combine(all);
        if constexpr (sizeof(T) == 8) measure_extremes(stage, all);
        const NormTask& task = walk_.task;
        for (int k = 0; k < kStatistics; ++k) {
            if (task.centre == Centre::kZero) all.of[k] = numerics::about_zero(all.of[k], all.count);
            const auto moments = all.of[k];
            const bool scaled = sizeof(T) == 8 && exponent_[k] != kNoExponent;
            if (scaled) all.of[k] = too_large_[k] ? numerics::scaled_back(moments, exponent_[k]) : before_[k];
            if (scaled && moments.m2 > 0.0) {
                invstd_[k] = numerics::invstd_of_scaled(moments.m2, all.count, exponent_[k], task.eps, task.placement);
            } else {
                const double var = numerics::variance(moments.m2, all.count);
                invstd_[k] = numerics::invstd_of(var, task.eps, task.placement);
            }
        }
        return all;
    }
    BNFAST_DEVICE double invstd(int k) const { return invstd_[k]; }

  private:
    template <class Stage>
    BNFAST_DEVICE Result of_all_tiles(const Stage& stage) {
        Result all;
        walk_.for_each_tile(first_, last_, [&](std::int64_t begin, std::int64_t end) {
            stage(begin, end);
            const Result tile = of_tile(begin, end);
            for (int k = 0; k < kStatistics; ++k) {
                all.of[k] = numerics::merged(all.of[k], tile.of[k], all.count, tile.count);
            }
            all.count += tile.count;
        });
        return all;
    }

    // Calls body(k, x) for all elements of the thread that take part, and after(k) behind those of a vector.
    template <class Body, class After>
    BNFAST_DEVICE void for_each_element(std::int64_t begin, std::int64_t end, const Body& body,
                                        const After& after) const {
        const S* const tile = walk_.tile(0);
        walk_.for_each_vector(
            unit_, begin, end, [&](const Place& p) { return walk_.open_where(p); },
            [&](const std::uint8_t* where, std::int64_t i, std::int64_t slot) {
                const auto x = walk_.load_staged(tile, slot);
                for (int e = 0; e < kCount; ++e) {
                    const int k = W::kRows ? e : 0;
                    if (!walk_.takes_part(where, i, e)) continue;
                    T value = decode(x.element[e]);
                    if constexpr (sizeof(T) == 8) value = value * factor_[k];
                    body(k, value);
                }
                after();
            });
    }

    BNFAST_DEVICE Result of_tile(std::int64_t begin, std::int64_t end) const {
        Result result;
        double pivot[kStatistics];
        find_pivots(begin, end, result.count, pivot);
        if constexpr (sizeof(S) == 2 && !W::kRows) {
            about<T>(begin, end, pivot, result);
            if (numerics::trusted_in_short_runs(last_squares_, result.of[0].m2)) return result;
        }
        about<double>(begin, end, pivot, result);
        return result;
    }

    // Numbers near the means, and exactly those of statistics whose elements are all the same: y is then exactly beta.
    BNFAST_DEVICE void find_pivots(std::int64_t begin, std::int64_t end, double& count,
                                   double (&pivot)[kStatistics]) const {
        constexpr int kOfVector = W::kRows ? 1 : kCount;
        constexpr T kPart = T(1) / T(kOfVector);  // so that no sum over a vector leaves the range of its elements
        double sums[kStatistics + 1] = {}, most[kStatistics];
        for (int k = 0; k < kStatistics; ++k) most[k] = -numerics::kLargest;
        T partial[kStatistics] = {};
        int taking_part = 0;
        for_each_element(
            begin, end,
            [&](int k, T x) {
                partial[k] = partial[k] + x * kPart;
                if (k == 0) ++taking_part;
                if (sizeof(T) == 8 && most[k] < static_cast<double>(x)) most[k] = static_cast<double>(x);
            },
            [&] {
                for (int k = 0; k < kStatistics; ++k) {
                    sums[k] += numerics::widen(partial[k]);
                    partial[k] = T(0);
                }
            });
        sums[kStatistics] = taking_part;
        reduce<Add>(sums, walk_.classes(), walk_.scratch());
        count = sums[kStatistics];
        if constexpr (sizeof(T) == 8) reduce<Larger>(most, walk_.classes(), walk_.scratch());
        for (int k = 0; k < kStatistics; ++k) {
            const double mean = count > 0.0 ? sums[k] * kOfVector / count : 0.0;
            if constexpr (sizeof(T) == 8) {
                const double near = numerics::abs(most[k]) * 0x1p-40;
                pivot[k] = numerics::abs(most[k] - mean) <= near ? most[k] : mean;
            } else {
                pivot[k] = numerics::widen(decode(encode<S>(static_cast<T>(mean))));
            }
        }
    }

    // Moments from sums about the pivots. V: what deviations and their squares are in; those of a vector are summed in
    // it, too.
    template <class V>
    BNFAST_DEVICE void about(std::int64_t begin, std::int64_t end, const double (&pivot)[kStatistics],
                             Result& result) const {
        double sums[2 * kStatistics] = {};
        V s[kStatistics] = {}, q[kStatistics] = {}, p[kStatistics];
        for (int k = 0; k < kStatistics; ++k) p[k] = static_cast<V>(pivot[k]);
        for_each_element(
            begin, end,
            [&](int k, T x) {
                const V d = static_cast<V>(x) - p[k];
                s[k] = s[k] + d;
                q[k] = q[k] + d * d;
            },
            [&] {
                for (int k = 0; k < kStatistics && sizeof(V) < 8; ++k) {
                    sums[2 * k] += numerics::widen(s[k]);
                    sums[2 * k + 1] += numerics::widen(q[k]);
                    s[k] = q[k] = V(0);
                }
            });
        if constexpr (sizeof(V) == 8) {
            for (int k = 0; k < kStatistics; ++k) {
                sums[2 * k] = s[k];
                sums[2 * k + 1] = q[k];
            }
        }
        reduce<Add>(sums, walk_.classes(), walk_.scratch());
        for (int k = 0; k < kStatistics && result.count > 0.0; ++k) {
            result.of[k] = numerics::moments_about(pivot[k], result.count, sums[2 * k], sums[2 * k + 1]);
        }
        last_squares_ = sums[1];
    }

    // Of all blocks: from the sums of the blocks' means and moments about the mean of one of them.
    BNFAST_DEVICE void combine(Result& all) {
        if (team_.size() == 1) return;
        const int classes = walk_.classes(), own = walk_.own_statistic();
        if (walk_.is_first_of_class()) {
            for (int k = 0; k < kStatistics; ++k) {
                double* const to = team_.numbers(team_.rank(), own + k);
                to[0] = all.count;
                to[1] = all.of[k].mean;
                to[2] = all.of[k].mean_low;
                to[3] = all.of[k].m2;
            }
        }
        team_.meet();
        int any = 0;  // a block with elements
        while (any + 1 < team_.size() && load_shared_by_blocks(team_.numbers(any, own)) == 0.0) ++any;
        double pivot[kStatistics], sums[2 * kStatistics + 1] = {};
        for (int k = 0; k < kStatistics; ++k) pivot[k] = load_shared_by_blocks(team_.numbers(any, own + k) + 1);
        for (int rank = thread_index() / classes; rank < team_.size(); rank += thread_count() / classes) {
            const double count = load_shared_by_blocks(team_.numbers(rank, own));
            if (count == 0.0) continue;
            sums[2 * kStatistics] += count;
            for (int k = 0; k < kStatistics; ++k) {
                const double* const from = team_.numbers(rank, own + k);
                const double d = (load_shared_by_blocks(from + 1) - pivot[k]) + load_shared_by_blocks(from + 2);
                sums[2 * k] += count * d;
                sums[2 * k + 1] += load_shared_by_blocks(from + 3) + count * d * d;
            }
        }
        team_.end_meeting();
        reduce<Add>(sums, classes, walk_.scratch());
        all.count = sums[2 * kStatistics];
        for (int k = 0; k < kStatistics && all.count > 0.0; ++k) {
            all.of[k] = numerics::moments_about(pivot[k], all.count, sums[2 * k], sums[2 * k + 1]);
        }
    }

    // --- float64 beyond its squares (numerics/extremes.h) ---

    template <class Stage>
    BNFAST_DEVICE void measure_extremes(const Stage& stage, Result& all) {
        const NormTask& task = walk_.task;
        double extreme[1] = {0.0};
        bool is_extreme[kStatistics];
        for (int k = 0; k < kStatistics; ++k) {
            auto moments = all.of[k];
            if (task.centre == Centre::kZero) moments = numerics::about_zero(moments, all.count);
            before_[k] = moments;
            too_large_[k] = numerics::squares_too_large(moments.m2);
            is_extreme[k] =
                walk_.has_statistic(unit_, k) && all.count > 0.0 &&
                (too_large_[k] || numerics::squares_too_small(moments.m2, all.count, task.eps, task.placement));
            if (is_extreme[k]) extreme[0] = 1.0;
        }
        reduce<Larger>(extreme, 1, walk_.scratch());
        if (extreme[0] == 0.0) return;  // for all blocks of the team, as they have the same numbers
        double most[kStatistics] = {};
        walk_.for_each_tile(first_, last_, [&](std::int64_t begin, std::int64_t end) {
            stage(begin, end);
            for_each_element(
                begin, end,
                [&](int k, T x) {
                    const double half = numerics::abs(static_cast<double>(x) / 2);
                    const double finite = half <= numerics::kLargest ? half : kInfinity;
                    if (most[k] < finite) most[k] = finite;
                },
                [] {});
        });
        reduce<Larger>(most, walk_.classes(), walk_.scratch());
        most_of_team(most);
        for (int k = 0; k < kStatistics; ++k) {
            if (!is_extreme[k] || !(most[k] > 0.0) || most[k] == kInfinity) continue;
            exponent_[k] = numerics::exponent_of_scale(most[k]);
            factor_[k] = __builtin_scalbn(1.0, -exponent_[k]);
        }
        Result scaled = of_all_tiles(stage);
        combine(scaled);
        for (int k = 0; k < kStatistics; ++k) {
            if (exponent_[k] != kNoExponent) all.of[k] = scaled.of[k];
        }
    }
    BNFAST_DEVICE void most_of_team(double (&most)[kStatistics]) {
        if (team_.size() == 1) return;
        const int own = walk_.own_statistic();
        if (walk_.is_first_of_class()) {
            for (int k = 0; k < kStatistics; ++k) *team_.numbers(team_.rank(), own + k) = most[k];
        }
        team_.meet();
        for (int rank = 0; rank < team_.size(); ++rank) {
            for (int k = 0; k < kStatistics; ++k) {
                const double other = load_shared_by_blocks(team_.numbers(rank, own + k));
                if (most[k] < other) most[k] = other;
            }
        }
        team_.end_meeting();
    }

    static constexpr int kNoExponent = 1 << 20;
    static constexpr double kInfinity = __builtin_huge_val();
    const W& walk_;
    Team& team_;
    const Unit& unit_;
    std::int64_t first_, last_;
    double invstd_[kStatistics];
    mutable double last_squares_ = 0.0;
    // Of float64 only.
    double factor_[kStatistics];
    int exponent_[kStatistics];
    bool too_large_[kStatistics];
    numerics::PartMoments<double> before_[kStatistics];
};

}  // namespace bnfast::cuda
