// float64 channels so large or so small that the squares of their deviations are beyond float64.
#include "cpu/extremes.h"

#include <algorithm>
#include <cmath>

#include "cpu/blocks.h"
#include "cpu/norm.h"
#include "cpu/schedule.h"
#include "numerics/extremes.h"

namespace bnfast::cpu {
namespace {

// Calls f(x) for each element of a channel that takes part, in the order of memory.
template <class F>
void for_each_of_channel(const BoundProblem& problem, std::int64_t channel, F f) {
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

template <class F>
void for_each_element(const BoundProblem& problem, std::int64_t statistic, F f) {
    const std::int64_t first = statistic * problem.share;
    for (std::int64_t c = first; c < first + problem.share; ++c) for_each_of_channel(problem, c, f);
}

// The exponent of the largest deviation from the first element (or from zero, where deviations are from there); false
// where there is none, or x is not finite.
bool exponent_of(const BoundProblem& problem, std::int64_t statistic, int& exponent) {
    bool finite = true, any = problem.centre == Centre::kZero;
    double first = 0.0, most = 0.0;
    for_each_element(problem, statistic, [&](double x) {
        if (!any) first = x / 2;  // halves: the difference of large numbers of both signs is finite
        any = true;
        finite = finite && std::isfinite(x);
        most = std::max(most, std::fabs(x / 2 - first));
    });
    if (finite && most > 0) exponent = numerics::exponent_of_scale(most);
    return finite && most > 0;
}

struct Measured {
    double count = 0;
    numerics::PartMoments<double> moments{};
};

// Moments of numbers that come one by one, measured in pieces.
class Pieces {
  public:
    void add(double x) {
        piece_[size_++] = x;
        if (size_ == kPiece) measure();
    }
    Measured finish() {
        if (size_ > 0) measure();
        return all_;
    }

  private:
    void measure() {
        BoundProblem problem;
        problem.dtype = DType::kFloat64;
        problem.geometry.outer = problem.geometry.channels = 1;
        problem.geometry.inner = size_;
        problem.x = {piece_, size_, size_};
        Measured piece;
        double invstd = 0.0;  // measured with the rest, and not wanted
        Statistics numbers;
        numbers.count = &piece.count;
        numbers.mean = &piece.moments.mean;
        numbers.mean_low = &piece.moments.mean_low;
        numbers.m2 = &piece.moments.m2;
        numbers.invstd = &invstd;
        moments(problem, numbers);
        all_.moments = numerics::merged(all_.moments, piece.moments, all_.count, piece.count);
        all_.count += piece.count;
        size_ = 0;
    }
    static constexpr std::int64_t kPiece = 1 << 15;
    Scratch scratch_;
    double* const piece_ = scratch_.take<double>(kPiece);
    std::int64_t size_ = 0;
    Measured all_;
};

void measure_again(const BoundProblem& problem, std::int64_t statistic, const Statistics& s) {
    int exponent = 0;
    if (!exponent_of(problem, statistic, exponent)) return;
    const double factor = std::scalbn(1.0, -exponent);
    Pieces pieces;
    for_each_element(problem, statistic, [&](double x) { pieces.add(x * factor); });
    Measured scaled = pieces.finish();
    if (problem.centre == Centre::kZero) scaled.moments = numerics::about_zero(scaled.moments, scaled.count);
    if (numerics::squares_too_large(s.m2[statistic])) {
        const auto [mean, mean_low, m2] = numerics::scaled_back(scaled.moments, exponent);
        s.mean[statistic] = mean;
        s.mean_low[statistic] = mean_low;
        s.m2[statistic] = m2;
    }
    s.invstd[statistic] =
        numerics::invstd_of_scaled(scaled.moments.m2, scaled.count, exponent, problem.eps, problem.eps_placement);
}

}  // namespace

void measure_extremes(const BoundProblem& problem, const Statistics& statistics) {
    if (problem.dtype != DType::kFloat64 || problem.elements() == 0) return;
    const std::int64_t statistics_count = problem.statistics();
    Scratch scratch;
    std::int64_t* const found = scratch.take<std::int64_t>(statistics_count);
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < statistics_count; ++i) {
        const double m2 = statistics.m2[i];
        const bool low = numerics::squares_too_small(m2, statistics.count[i], problem.eps, problem.eps_placement);
        if (numerics::squares_too_large(m2) || low) found[count++] = i;
    }
    parallel_for(count, useful_threads(problem.elements()),
                 [&](std::int64_t k) { measure_again(problem, found[k], statistics); });
}

}  // namespace bnfast::cpu
