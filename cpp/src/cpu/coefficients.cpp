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
    const std::int64_t channels = problem.geometry.channels, entries = padded(channels);
    const auto row = [&] {
        return static_cast<void*>(scratch.take<char>(entries * static_cast<std::int64_t>(sizeof(double))));
    };
    for (void** values : {&affine_.prescale, &affine_.mean_high, &affine_.mean_low, &affine_.scale, &affine_.shift}) {
        *values = row();
    }
    affine_.has_inverse = problem.from_output;
    if (affine_.has_inverse) affine_.inverse = row();
    if (problem.dy.data != nullptr) {
        gradient_ = {row(), row(), row()};
        centre_.wanted = sums_of(problem) == Sums::kAboutZero;
    }
    if (centre_.wanted) {
        centre_.mean = scratch.take<double>(entries);
        centre_.centred = scratch.take<bool>(entries);
    }
    gamma_ = in_order(scratch, s.gamma, s, channels);
    AffineInputs inputs;
    inputs.mean = s.mean;
    inputs.mean_low = s.mean_low;
    inputs.m2 = s.m2;
    inputs.count = s.count;
    inputs.invstd = s.invstd;
    inputs.gamma = gamma_;
    inputs.beta = in_order(scratch, s.beta, s, channels);
    active_target().forward_coefficients(inputs, problem.dtype == DType::kFloat64, channels, affine_, centre_);
}

void ChannelCoefficients::add_gradient(const BoundProblem& problem, const Statistics& s, StatisticsAre kind,
                                       const TotalSums& total, bool sums_are_prescaled) {
    GradientInputs inputs;
    inputs.count = s.count;
    inputs.m2 = s.m2;
    inputs.invstd = s.invstd;
    inputs.gamma = gamma_;
    inputs.total_count = total.count;
    inputs.sum_dz = total.dz;
    inputs.sum_dz_xmu = total.dz_xmu;
    inputs.sums_are_prescaled = sums_are_prescaled;
    inputs.eps = problem.eps;
    inputs.placement = problem.eps_placement;
    inputs.constant_statistics = kind == StatisticsAre::kConstant;
    active_target().gradient_coefficients(inputs, problem.dtype == DType::kFloat64, problem.geometry.channels, affine_,
                                          gradient_);
}

void ChannelCoefficients::undo_prescale(const BoundProblem& problem, const double* sums, const double* factors,
                                        double* out) const {
    const auto each = [&](auto factor) {
        for (std::int64_t c = 0; c < problem.geometry.channels; ++c) out[c] = sums[c] * factor(c);
    };
    if (!affine_.prescaled) return each([&](std::int64_t c) { return factors[c]; });
    if (problem.dtype == DType::kFloat64) {
        const double* const prescale = static_cast<const double*>(affine_.prescale);
        return each([&](std::int64_t c) { return factors[c] / prescale[c]; });
    }
    const float* const prescale = static_cast<const float*>(affine_.prescale);
    each([&](std::int64_t c) { return factors[c] / static_cast<double>(prescale[c]); });
}

}  // namespace bnfast::cpu
