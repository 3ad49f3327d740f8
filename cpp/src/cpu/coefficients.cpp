// Coefficients of the affine map and of its gradient, one of each for every channel of a problem.
#include "cpu/coefficients.h"

#include "cpu/blocks.h"

namespace bnfast::cpu {
namespace {

// Parameters of the problem's channels one after the other: where they lie so, or a copy.
const double* in_order(Scratch& scratch, const double* parameters, const Statistics& statistics,
                       std::int64_t channels) {
    if (channels == 0) return parameters;
    const std::int64_t first = statistics.first % statistics.parameters;
    if (first + channels <= statistics.parameters) return parameters + first;
    double* const copy = scratch.take<double>(channels);
    for (std::int64_t c = 0, k = first; c < channels; ++c) {
        copy[c] = parameters[k];
        if (++k == statistics.parameters) k = 0;
    }
    return copy;
}

}  // namespace

// Products of float64 with dz are not exact, and x - mean is what y gives.
Sums sums_of(const BoundProblem& problem) {
    return problem.dtype == DType::kFloat64 || problem.from_output ? Sums::kCentred : Sums::kAboutZero;
}

void fill_invstd(const BoundProblem& problem, const Statistics& s) {
    active_target().invstd(s.m2, s.count, problem.eps, problem.eps_placement, problem.geometry.channels, s.invstd);
}

ChannelCoefficients::ChannelCoefficients(Scratch& scratch, const BoundProblem& problem, const Statistics& s) {
    const std::int64_t channels = problem.geometry.channels;
    const std::int64_t bytes = padded(channels) * static_cast<std::int64_t>(sizeof(double));
    const auto row = [&] { return static_cast<void*>(scratch.take<char>(bytes)); };
    const bool sums_about_zero = problem.dy.data != nullptr && sums_of(problem) == Sums::kAboutZero;
    void* const inverse = problem.from_output ? row() : nullptr;
    void* const mean = sums_about_zero ? row() : nullptr;
    memory_ = {row(), row(), row(), row(), row(), row(), row(), row(), inverse, mean};
    gamma_ = in_order(scratch, s.gamma, s, channels);
    const AffineInputs inputs{
        s.mean, s.mean_low, s.m2, s.count, s.invstd, gamma_, in_order(scratch, s.beta, s, channels)};
    const AffineTraits traits =
        active_target().forward_coefficients(inputs, problem.dtype == DType::kFloat64, channels, memory_);
    coefficients_ = {traits.prescaled ? memory_.prescale : nullptr,
                     memory_.mean_high,
                     memory_.mean_low,
                     memory_.scale,
                     memory_.shift,
                     memory_.mean_dz,
                     memory_.projection,
                     memory_.dx_scale,
                     memory_.inverse,
                     memory_.mean};
}

void ChannelCoefficients::add_gradient(const BoundProblem& problem, const Statistics& s, StatisticsAre kind,
                                       const TotalSums& total, bool sums_are_prescaled) {
    active_target().gradient_coefficients({s.count, s.m2, s.invstd, gamma_, total.count, total.dz, total.dz_xmu,
                                           sums_are_prescaled, problem.eps, problem.eps_placement,
                                           kind == StatisticsAre::kConstant},
                                          problem.dtype == DType::kFloat64, problem.geometry.channels, coefficients_,
                                          memory_);
}

void ChannelCoefficients::undo_prescale(const BoundProblem& problem, const double* sums, const double* factors,
                                        double* out) const {
    const auto each = [&](auto factor) {
        for (std::int64_t c = 0; c < problem.geometry.channels; ++c) out[c] = sums[c] * factor(c);
    };
    if (coefficients_.prescale == nullptr) return each([&](std::int64_t c) { return factors[c]; });
    if (problem.dtype == DType::kFloat64) {
        const double* const prescale = static_cast<const double*>(coefficients_.prescale);
        return each([&](std::int64_t c) { return factors[c] / prescale[c]; });
    }
    const float* const prescale = static_cast<const float*>(coefficients_.prescale);
    each([&](std::int64_t c) { return factors[c] / static_cast<double>(prescale[c]); });
}

}  // namespace bnfast::cpu
