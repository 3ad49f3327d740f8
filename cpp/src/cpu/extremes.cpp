// float64 channels so large or so small that the squares of their deviations are beyond float64.
#include "cpu/extremes.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/blocks.h"
#include "cpu/norm.h"
#include "cpu/schedule.h"
#include "cpu/target.h"

namespace bnfast::cpu {
namespace {

bool too_large(double m2) { return !(m2 <= std::numeric_limits<double>::max()); }  // NaN, too

// Whether squares have lost digits, or all of them, that show in invstd.
bool too_small(const BoundProblem& problem, double m2, double count) {
    // Below this variance, the rounding of squares to multiples of 2^-1074 is no longer beyond the last digit.
    constexpr double kSmallest = 0x1p-1015;
    // From these on, eps hides the variance whatever its digits.
    const double hides = problem.eps_placement == EpsPlacement::kVar ? 0x1p-700 : 0x1p-300;
    return problem.eps < hides && m2 < count * kSmallest;
}

// Calls f(x) for each element of a channel that takes part, in the order of memory.
template <class F>
void for_each_element(const BoundProblem& problem, std::int64_t channel, F f) {
    const Geometry& g = problem.geometry;
    const std::int64_t lines = g.rows ? 1 : g.outer, length = g.rows ? g.outer : g.inner;
    const std::int64_t stride = g.rows ? problem.x.outer_stride : 1;
    const double* const x = static_cast<const double*>(problem.x.data) + channel * problem.x.channel_stride;
    for (std::int64_t line = 0; line < lines; ++line) {
        const std::uint8_t* const bits = problem.where.bits + (problem.where.bits ? line * problem.where.pitch : 0);
        for (std::int64_t i = 0; i < length; ++i) {
            if (bits == nullptr || count_bits(bits, i, i + 1) == 1) f(x[line * problem.x.outer_stride + i * stride]);
        }
    }
}

// The exponent of the largest deviation from the first element; false where there is none, or x is not finite.
bool exponent_of(const BoundProblem& problem, std::int64_t channel, int& exponent) {
    bool finite = true, any = false;
    double first = 0.0, most = 0.0;
    for_each_element(problem, channel, [&](double x) {
        if (!any) first = x / 2;  // halves: the difference of large numbers of both signs is finite
        any = true;
        finite = finite && std::isfinite(x);
        most = std::max(most, std::fabs(x / 2 - first));
    });
    constexpr int kMost = 1022;  // 2^-exponent is a normal number
    if (finite && most > 0) exponent = std::clamp(std::ilogb(most) + 1, -kMost, kMost);
    return finite && most > 0;
}

// Moments of dense numbers, a piece at a time.
class Pieces {
  public:
    void add(double x) {
        piece_[size_++] = x;
        if (size_ == kPiece) merge();
    }
    // Count, mean, mean_low and m2 of all.
    Statistics finish() {
        if (size_ > 0) merge();
        return numbers(0);
    }

  private:
    void merge() {
        BoundProblem problem;
        problem.dtype = DType::kFloat64;
        problem.geometry.outer = problem.geometry.channels = 1;
        problem.geometry.inner = size_;
        problem.x = {piece_, size_, size_};
        moments(problem, numbers(1));
        active_target().merge_moments({mean_, mean_low_, m2_}, counts_, 2, 1, 1);
        counts_[0] += counts_[1];
        size_ = 0;
    }
    Statistics numbers(int k) {
        Statistics result;
        result.count = counts_ + k;
        result.mean = mean_ + k;
        result.mean_low = mean_low_ + k;
        result.m2 = m2_ + k;
        result.invstd = invstd_ + k;
        return result;
    }
    static constexpr std::int64_t kPiece = 1 << 15;
    Scratch scratch_;
    double* const piece_ = scratch_.take<double>(kPiece);
    std::int64_t size_ = 0;
    // Of what was merged, and of a piece.
    double counts_[2] = {}, mean_[2] = {}, mean_low_[2] = {}, m2_[2] = {}, invstd_[2] = {};
};

// sqrt(a^2 + b^2), whose squares may be beyond float64.
double hypotenuse(double a, double b) {
    const double more = std::max(a, b), less = std::min(a, b);
    return less == 0 ? more : more * std::sqrt(1 + less / more * (less / more));
}

void measure_again(const BoundProblem& problem, std::int64_t channel, const Statistics& s) {
    int exponent = 0;
    if (!exponent_of(problem, channel, exponent)) return;
    const double factor = std::scalbn(1.0, -exponent);
    Pieces pieces;
    for_each_element(problem, channel, [&](double x) { pieces.add(x * factor); });
    const Statistics scaled = pieces.finish();
    if (too_large(s.m2[channel])) {
        s.mean[channel] = std::scalbn(*scaled.mean, exponent);
        s.mean_low[channel] = std::scalbn(*scaled.mean_low, exponent);
        s.m2[channel] = std::scalbn(*scaled.m2, 2 * exponent);  // inf, or a number that was only just not reached
    }
    const double std = std::scalbn(std::sqrt(*scaled.m2 / *scaled.count), exponent);
    const double divisor =
        problem.eps_placement == EpsPlacement::kVar ? hypotenuse(std, std::sqrt(problem.eps)) : std + problem.eps;
    s.invstd[channel] = std::min(1 / divisor, std::numeric_limits<double>::max());
}

}  // namespace

void measure_extremes(const BoundProblem& problem, const Statistics& statistics) {
    if (problem.dtype != DType::kFloat64 || problem.elements() == 0) return;
    const std::int64_t channels = problem.geometry.channels;
    Scratch scratch;
    std::int64_t* const found = scratch.take<std::int64_t>(channels);
    std::int64_t count = 0;
    for (std::int64_t c = 0; c < channels; ++c) {
        const double m2 = statistics.m2[c];
        if (too_large(m2) || too_small(problem, m2, statistics.count[c])) found[count++] = c;
    }
    parallel_for(count, useful_threads(problem.elements()),
                 [&](std::int64_t k) { measure_again(problem, found[k], statistics); });
}

}  // namespace bnfast::cpu
