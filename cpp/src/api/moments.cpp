// Merging the statistics of two parts of a batch, and the sums of their gradients.
#include "bnfast/moments.h"

#include <cmath>
#include <initializer_list>

#include "api/checks.h"
#include "numerics/moments.h"

namespace bnfast {
namespace {

// The counts of two parts, and the sizes of their other vectors: all should have an entry for each channel.
void check_parts(const char* operation, const std::vector<std::int64_t>& into, const std::vector<std::int64_t>& other,
                 std::initializer_list<std::size_t> sizes_of_into, std::initializer_list<std::size_t> sizes_of_other) {
    const auto check_sizes = [&](const char* name, std::initializer_list<std::size_t> sizes) {
        for (const std::size_t size : sizes) {
            if (size == into.size()) continue;
            api::fail(operation, std::string(name) + " has " + std::to_string(size) + " channels, expected " +
                                     std::to_string(into.size()));
        }
    };
    check_sizes("into", sizes_of_into);
    check_sizes("other", {other.size()});
    check_sizes("other", sizes_of_other);
    for (std::size_t c = 0; c < into.size(); ++c) {
        std::int64_t count;
        if (__builtin_add_overflow(into[c], other[c], &count)) {
            api::fail(operation, "a count is beyond int64, expected less than 2**63");
        }
    }
}

// Of one channel: mean, mean_low and m2.
using Values = numerics::PartMoments<double>;

// Of n = na + nb elements, with delta = mean_b - mean_a (Chan, Golub & LeVeque 1979, equation 2.1):
//   mean = mean_a + delta nb / n,   m2 = m2_a + m2_b + delta^2 na nb / n
// a is the part of more elements, as the error of delta nb / n is then least. Neither part is empty. Blocks of one
// tensor are merged by a shorter formula, numerics::merged: parts that come from anywhere may differ in size and mean
// as much as numbers can.
Values merged_parts(const Values& one, std::int64_t count_one, const Values& two, std::int64_t count_two) {
    const bool swap = count_two > count_one;
    const Values &a = swap ? two : one, &b = swap ? one : two;
    const double more = static_cast<double>(swap ? count_two : count_one);
    const double less = static_cast<double>(swap ? count_one : count_two);
    const double share = less / static_cast<double>(count_one + count_two);
    const auto difference = numerics::two_sum(b.mean, -a.mean);
    double delta = difference.high + (difference.low + (b.mean_low - a.mean_low));
    double step = delta * share;
    // The difference of two means may be beyond float64 where the mean between them is not.
    const double rough = b.mean - a.mean;
    if (std::isinf(rough)) {
        delta = rough;
        step = b.mean * share - a.mean * share;
    }
    const auto moved = numerics::two_sum(a.mean, step);
    const auto mean = numerics::two_sum(moved.high, moved.low + a.mean_low);
    return {mean.high, std::isfinite(mean.high) ? mean.low : 0.0, one.m2 + two.m2 + delta * step * more};
}

}  // namespace

void merge(Moments& into, const Moments& other) {
    check_parts("Moments.merge", into.count, other.count, {into.mean.size(), into.mean_low.size(), into.m2.size()},
                {other.mean.size(), other.mean_low.size(), other.m2.size()});
    for (std::size_t c = 0; c < into.count.size(); ++c) {
        if (other.count[c] == 0) continue;
        Values result{other.mean[c], other.mean_low[c], other.m2[c]};
        if (into.count[c] != 0) {
            const Values own{into.mean[c], into.mean_low[c], into.m2[c]};
            result = merged_parts(own, into.count[c], result, other.count[c]);
        }
        into.count[c] += other.count[c];
        into.mean[c] = result.mean;
        into.mean_low[c] = result.mean_low;
        into.m2[c] = result.m2;
    }
}

void merge(GradientSums& into, const GradientSums& other) {
    check_parts("GradientSums.merge", into.count, other.count, {into.sum_dy.size(), into.sum_dy_xmu.size()},
                {other.sum_dy.size(), other.sum_dy_xmu.size()});
    for (std::size_t c = 0; c < into.count.size(); ++c) {
        if (other.count[c] == 0) continue;
        const bool empty = into.count[c] == 0;
        into.count[c] += other.count[c];
        into.sum_dy[c] = empty ? other.sum_dy[c] : into.sum_dy[c] + other.sum_dy[c];
        into.sum_dy_xmu[c] = empty ? other.sum_dy_xmu[c] : into.sum_dy_xmu[c] + other.sum_dy_xmu[c];
    }
}

}  // namespace bnfast
