// Coefficients of the affine map and of its gradient, one of each for every channel of a problem.
#include "cpu/coefficients.h"

#include <algorithm>
#include <initializer_list>

#include "cpu/blocks.h"

namespace bnfast::cpu {
namespace {

// Statistics with an entry for each channel: as they are, or copies.
Statistics for_each_channel_alone(Scratch& scratch, const BoundProblem& problem, const Statistics& s) {
    if (problem.share == 1) return s;
    Statistics result = s;
    const std::int64_t channels = problem.geometry.channels;
    for (double* Statistics::* row :
         {&Statistics::count, &Statistics::mean, &Statistics::mean_low, &Statistics::m2, &Statistics::invstd}) {
        double* const copy = scratch.take<double>(channels);
        for (std::int64_t c = 0; c < channels; ++c) copy[c] = (s.*row)[c / problem.share];
        result.*row = copy;
    }
    return result;
}

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
    const bool centred = problem.dtype == DType::kFloat64 || problem.from_output || problem.along.used;
    return centred ? Sums::kCentred : Sums::kAboutZero;
}

void fill_invstd(const BoundProblem& problem, const Statistics& s) {
    active_target().invstd(s.m2, s.count, problem.eps, problem.eps_placement, problem.statistics(), s.invstd);
}

ChannelCoefficients::ChannelCoefficients(Scratch& scratch, const BoundProblem& problem, const Statistics& s) {
    const std::int64_t channels = problem.geometry.channels, entries = padded(channels);
    channels_ = for_each_channel_alone(scratch, problem, s);
    const auto row = [&] {
        return static_cast<void*>(scratch.take<char>(entries * static_cast<std::int64_t>(sizeof(double))));
    };
    for (void** values : {&affine_.prescale, &affine_.mean_high, &affine_.mean_low, &affine_.scale, &affine_.shift}) {
        *values = row();
    }
    affine_.has_inverse = problem.from_output;
    if (affine_.has_inverse) affine_.inverse = row();
    if (problem.dy.is_there()) {
        gradient_.mean_dz = row();
        gradient_.projection = row();
        gradient_.dx_scale = row();
        gradient_.weighted = is_weighted(problem);
        if (gradient_.weighted) gradient_.weight = row();
        centre_.wanted = sums_of(problem) == Sums::kAboutZero;
    }
    if (centre_.wanted) {
        centre_.mean = scratch.take<double>(entries);
        centre_.centred = scratch.take<bool>(entries);
    }
    const double* beta = nullptr;
    if (problem.along.used) {  // gamma and beta come behind the map
        double* const ones = scratch.take<double>(channels);
        double* const zeros = scratch.take<double>(channels);
        std::fill_n(ones, channels, 1.0);
        std::fill_n(zeros, channels, 0.0);
        gamma_ = ones;
        beta = zeros;
    } else {
        gamma_ = in_order(scratch, s.gamma, s, channels);
        beta = in_order(scratch, s.beta, s, channels);
    }
    AffineInputs inputs;
    inputs.mean = channels_.mean;
    inputs.mean_low = channels_.mean_low;
    inputs.m2 = channels_.m2;
    inputs.count = channels_.count;
    inputs.invstd = channels_.invstd;
    inputs.gamma = gamma_;
    inputs.beta = beta;
    active_target().forward_coefficients(inputs, problem.dtype == DType::kFloat64, channels, affine_, centre_);
}

void ChannelCoefficients::add_gradient(const BoundProblem& problem, StatisticsAre kind, const TotalSums& total,
                                       bool sums_are_prescaled) {
    GradientInputs inputs;
    inputs.count = channels_.count;
    inputs.m2 = channels_.m2;
    inputs.invstd = channels_.invstd;
    inputs.weighted = gradient_.weighted;
    inputs.about_zero = problem.centre == Centre::kZero;
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

TotalSums ChannelCoefficients::total_of_statistics(Scratch& scratch, const BoundProblem& problem, const double* dz,
                                                   const double* dgamma) const {
    const std::int64_t channels = problem.geometry.channels, share = problem.share;
    const auto total = [&](const double* of_channels) {
        double* const result = scratch.take<double>(padded(channels));
        for (std::int64_t first = 0; first < channels; first += share) {
            double sum = 0.0;
            for (std::int64_t c = first; c < first + share; ++c) sum += gamma_[c] * of_channels[c];
            std::fill_n(result + first, share, sum);
        }
        return result;
    };
    double* const dz_xmu = total(dgamma);
    double* const factor = scratch.take<double>(channels);  // of dz_xmu in dgamma: invstd / prescale
    std::fill_n(factor, channels, 1.0);
    times_invstd(problem, factor, factor);
    for (std::int64_t c = 0; c < channels; ++c) dz_xmu[c] = factor[c] == 0.0 ? 0.0 : dz_xmu[c] / factor[c];
    return {channels_.count, total(dz), dz_xmu};
}

template <class Factor>
void ChannelCoefficients::times_factor(const BoundProblem& problem, const double* sums, const Factor& factor,
                                       double* out) const {
    const auto each = [&](auto whole_factor) {
        for (std::int64_t c = 0; c < problem.geometry.channels; ++c) out[c] = sums[c] * whole_factor(c);
    };
    if (!affine_.prescaled) return each(factor);
    if (problem.dtype == DType::kFloat64) {
        const double* const prescale = static_cast<const double*>(affine_.prescale);
        return each([&](std::int64_t c) { return factor(c) / prescale[c]; });
    }
    const float* const prescale = static_cast<const float*>(affine_.prescale);
    each([&](std::int64_t c) { return factor(c) / static_cast<double>(prescale[c]); });
}

void ChannelCoefficients::undo_prescale(const BoundProblem& problem, const double* sums, double* out) const {
    times_factor(problem, sums, [](std::int64_t) { return 1.0; }, out);
}

void ChannelCoefficients::times_invstd(const BoundProblem& problem, const double* sums, double* out) const {
    times_factor(problem, sums, [&](std::int64_t c) { return channels_.invstd[c]; }, out);
}

}  // namespace bnfast::cpu
