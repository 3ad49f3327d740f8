// The front desk of batch normalization: checks, geometry, backend.
#include "bnfast/batch_norm.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

#include "api/checks.h"
#include "api/geometry.h"
#include "api/memory.h"
#include "cpu/arithmetic.h"
#include "cpu/batch_norm.h"
#include "cpu/channel_values.h"
#include "numerics/mask.h"

namespace bnfast {

void BatchNormSaved::resize(std::int64_t num_channels) {
    constexpr std::int64_t kRows = 7;
    channels = num_channels;
    values.reset(new double[static_cast<std::size_t>(kRows * num_channels)]);  // not set to zero
}

namespace {

using api::check_channel_values;
using api::check_disjoint;
using api::check_like;
using api::fail;
using api::OrderedTensor;
using api::Sums;
using Use = OrderedTensor::Use;

cpu::ChannelStatistics statistics_of(BatchNormSaved& saved) {
    return {saved.count(), saved.mean(), saved.mean_low(), saved.m2(), saved.invstd(), saved.gamma(), saved.beta()};
}

std::int64_t elements_of(const TensorView& x) {
    return std::accumulate(x.shape, x.shape + x.ndim, std::int64_t{1}, std::multiplies<>());
}

// A call's tensors in x's layout order, and the Problem that refers to them.
class Call {
  public:
    Call(const BatchNormInputs& inputs, const BatchNormOptions& options, int axis, Sums sums)
        : order_(options.dropout > 0 ? api::index_order(inputs.x, axis) : api::layout_order(inputs.x, axis)),
          where_(api::order_where(inputs.where, inputs.x, order_)),
          sums_(sums) {
        order_.geometry.flat = inputs.where.data == nullptr && api::goes_flat(order_.geometry, sums);
        problem.geometry = order_.geometry;
        add_to(x_, &cpu::Problem::x, inputs.x, Use::kRead);
        problem.dtype = inputs.x.dtype;
        problem.where = where_.bits;
        problem.activation = options.activation;
        problem.activation_slope = options.activation_slope;
        problem.dropout = numerics::dropout_bits(options.dropout, options.seed, options.offset);
        problem.dropout_scale = numerics::dropout_scale(options.dropout);
        problem.all_channels = order_.geometry.channels;
        problem.eps = options.eps;
        problem.eps_placement = options.eps_placement;
    }

    void read(cpu::Operand cpu::Problem::* operand, const TensorView& view) { add(operand, view, Use::kRead); }
    void write(cpu::Operand cpu::Problem::* operand, const TensorView& view) { add(operand, view, Use::kWrite); }
    void finish() {
        for (int k = 0; k < count_; ++k) tensors_[k].finish();
    }

    cpu::Problem problem;

  private:
    void add(cpu::Operand cpu::Problem::* operand, const TensorView& view, Use use) {
        if (view.data == nullptr) return;
        add_to(tensors_[count_++], operand, view, use);
    }
    // What is only normalised may lie with gaps: no sum is taken whose bits would depend on them.
    void add_to(OrderedTensor& tensor, cpu::Operand cpu::Problem::* operand, const TensorView& view, Use use) {
        if (sums_ == Sums::kNone && !api::runs_touch(view, order_))
            order_.geometry.flat = problem.geometry.flat = false;
        tensor.bind(view, order_, use);
        problem.*operand = tensor.operand();
    }

    api::LayoutOrder order_;
    api::OrderedWhere where_;
    Sums sums_;
    OrderedTensor x_;
    static constexpr int kMostTensors = 4;  // besides x: residual, dy, dx and dresidual
    OrderedTensor tensors_[kMostTensors];
    int count_ = 0;
};

// Everything that forward functions have in common; returns the axis from the front.
int check_forward(const char* operation, const BatchNormInputs& inputs, const BatchNormOptions& options,
                  const TensorView& y) {
    const int axis = api::check_axis(operation, inputs.x, options.axis);
    api::check_options(operation, options);
    api::check_rate(operation, "dropout", options.dropout);
    check_channel_values(operation, "gamma", inputs.gamma, inputs.x, axis);
    check_channel_values(operation, "beta", inputs.beta, inputs.x, axis);
    check_like(operation, "residual", inputs.residual, "x", inputs.x);
    api::check_where(operation, inputs.where, inputs.x, axis);
    check_like(operation, "out", y, "x", inputs.x);
    const api::Memory out = api::memory_of(y);
    if (!api::same_memory(y, inputs.x)) check_disjoint(operation, out, "x", inputs.x);
    api::check_output(operation, out);
    check_disjoint(operation, out, "residual", inputs.residual);
    check_disjoint(operation, out, inputs.where);
    check_disjoint(operation, out, "gamma", inputs.gamma);
    check_disjoint(operation, out, "beta", inputs.beta);
    return axis;
}

void save_options(const BatchNormInputs& inputs, const BatchNormOptions& options, int axis, BatchNormSaved& saved) {
    const std::int64_t channels = inputs.x.shape[axis];
    saved.options = options;
    saved.options.axis = axis;
    saved.has_gamma = inputs.gamma.data != nullptr;
    saved.has_beta = inputs.beta.data != nullptr;
    saved.resize(channels);
}

cpu::ChannelValues channel_values(const TensorView& values, double absent, double* out) {
    if (values.data == nullptr) return {nullptr, 0, true, absent, out};
    return {values.data, values.strides[0], values.dtype == DType::kFloat64, absent, out};
}

// Whether y goes over x. Backward must then find x in y again: ValueError where it could not.
bool check_in_place(const char* operation, const BatchNormInputs& inputs, const TensorView& y, BatchNormSaved& saved) {
    if (!api::same_memory(y, inputs.x) || inputs.x.data == nullptr) return false;
    api::check_invertible(operation, inputs, saved.options);
    api::check_invertible_scale(operation, inputs.x.dtype, saved.options, saved.gamma(), saved.beta(), saved.channels);
    return true;
}

// x normalised by given mean and var.
void normalise_with(const char* operation, const BatchNormInputs& inputs, const TensorView& mean, const TensorView& var,
                    const BatchNormOptions& options, const TensorView& y, BatchNormSaved& saved, bool for_backward) {
    const cpu::StandardArithmetic arithmetic;
    const int axis = check_forward(operation, inputs, options, y);
    check_channel_values(operation, "mean", mean, inputs.x, axis);
    check_channel_values(operation, "var", var, inputs.x, axis);
    const api::Memory out = api::memory_of(y);
    check_disjoint(operation, out, "mean", mean);
    check_disjoint(operation, out, "var", var);
    api::check_not_negative(operation, "var", var);
    save_options(inputs, options, axis, saved);
    const cpu::ChannelValues values[] = {
        channel_values(inputs.gamma, 1.0, saved.gamma()), channel_values(inputs.beta, 0.0, saved.beta()),
        channel_values(mean, 0.0, saved.mean()),          channel_values(var, 1.0, saved.m2()),  // of one element
        channel_values({}, 0.0, saved.mean_low()),        channel_values({}, 1.0, saved.count()),
    };
    cpu::fill_channels(values, 6, saved.channels, elements_of(inputs.x));
    saved.frozen = true;
    if (for_backward) saved.in_place = check_in_place(operation, inputs, y, saved);
    Call call(inputs, options, axis, Sums::kNone);
    call.read(&cpu::Problem::residual, inputs.residual);
    call.write(&cpu::Problem::y, y);
    cpu::normalise(call.problem, statistics_of(saved), cpu::Invstd::kFromVariance);
    call.finish();
}

// Statistics of nothing are no statistics of a batch that takes part with `own` elements a channel.
void check_counts(const char* operation, const char* name, const std::vector<double>& counts, double own) {
    const auto none = std::find(counts.begin(), counts.end(), 0.0);
    if (own == 0 || none == counts.end()) return;
    fail(operation, std::string(name) + " counts no element in channel " + std::to_string(none - counts.begin()) +
                        ", expected at least one in each, as x has " + api::number_text(own));
}

void check_backward(const char* operation, const BatchNormInputs& inputs, const TensorView& dy,
                    const BatchNormSaved& saved) {
    const int axis = api::check_axis(operation, inputs.x, saved.options.axis);
    if (inputs.x.shape[axis] != saved.channels) {
        fail(operation, "x has shape " + api::shape_text(inputs.x) + ", expected " + std::to_string(saved.channels) +
                            " channels on axis " + std::to_string(axis) + " as forward had");
    }
    check_like(operation, "dy", dy, "x", inputs.x);
    check_like(operation, "residual", inputs.residual, "x", inputs.x);
    api::check_where(operation, inputs.where, inputs.x, axis);
}

}  // namespace

Moments moments(const TensorView& x, const WhereView& where, int axis) {
    const cpu::StandardArithmetic arithmetic;
    axis = api::check_axis("moments", x, axis);
    api::check_where("moments", where, x, axis);
    BatchNormInputs inputs;
    inputs.x = x;
    inputs.where = where;
    Call call(inputs, BatchNormOptions{}, axis, Sums::kTaken);
    const std::size_t channels = static_cast<std::size_t>(x.shape[axis]);
    Moments result{std::vector<double>(channels), std::vector<double>(channels), std::vector<double>(channels),
                   std::vector<double>(channels)};
    cpu::moments(call.problem, {result.count.data(), result.mean.data(), result.mean_low.data(), result.m2.data(),
                                nullptr, nullptr, nullptr});
    return result;
}

void batch_norm(const BatchNormInputs& inputs, const BatchNormOptions& options, const Moments* stats,
                const TensorView& y, BatchNormSaved& saved) {
    const cpu::StandardArithmetic arithmetic;
    const int axis = check_forward("batch_norm", inputs, options, y);
    const std::size_t channels = static_cast<std::size_t>(inputs.x.shape[axis]);
    if (stats != nullptr && stats->count.size() != channels) {
        fail("batch_norm", "stats has " + std::to_string(stats->count.size()) + " channels, expected " +
                               std::to_string(channels) + " to match axis " + std::to_string(axis) +
                               " of x with shape " + api::shape_text(inputs.x));
    }
    save_options(inputs, options, axis, saved);
    const cpu::ChannelValues values[] = {channel_values(inputs.gamma, 1.0, saved.gamma()),
                                         channel_values(inputs.beta, 0.0, saved.beta())};
    cpu::fill_channels(values, 2, saved.channels, elements_of(inputs.x));
    saved.in_place = check_in_place("batch_norm", inputs, y, saved);
    // The mask counts elements by index. The statistics are those of x as it lies in memory, as without dropout.
    const bool measured_apart = options.dropout > 0 && !api::lies_in_index_order(inputs.x, axis);
    Call call(inputs, options, axis, stats != nullptr || measured_apart ? Sums::kNone : Sums::kTaken);
    call.read(&cpu::Problem::residual, inputs.residual);
    call.write(&cpu::Problem::y, y);
    const cpu::ChannelStatistics statistics = statistics_of(saved);
    if (stats == nullptr && measured_apart) {
        BatchNormOptions measuring = options;
        measuring.dropout = 0.0;
        cpu::moments(Call(inputs, measuring, axis, Sums::kTaken).problem, statistics);
        cpu::normalise(call.problem, statistics, cpu::Invstd::kThere);
    } else if (stats == nullptr) {
        cpu::forward(call.problem, statistics);
    } else {
        const double own = cpu::count_taking_part(call.problem);
        check_counts("batch_norm", "stats", stats->count, own);
        std::copy(stats->count.begin(), stats->count.end(), saved.count());
        std::copy(stats->mean.begin(), stats->mean.end(), saved.mean());
        std::copy(stats->mean_low.begin(), stats->mean_low.end(), saved.mean_low());
        std::copy(stats->m2.begin(), stats->m2.end(), saved.m2());
        saved.foreign_stats =
            std::any_of(stats->count.begin(), stats->count.end(), [&](double count) { return count != own; });
        cpu::normalise(call.problem, statistics, cpu::Invstd::kFromVariance);
    }
    call.finish();
}

void batch_norm_inference(const BatchNormInputs& inputs, const TensorView& mean, const TensorView& var,
                          const BatchNormOptions& options, const TensorView& y) {
    BatchNormSaved saved;
    normalise_with("batch_norm_inference", inputs, mean, var, options, y, saved, false);
}

void batch_norm_frozen(const BatchNormInputs& inputs, const TensorView& mean, const TensorView& var,
                       const BatchNormOptions& options, const TensorView& y, BatchNormSaved& saved) {
    normalise_with("batch_norm_frozen", inputs, mean, var, options, y, saved, true);
}

GradientSums batch_norm_backward_sums(const BatchNormInputs& inputs, const TensorView& dy, BatchNormSaved& saved) {
    const cpu::StandardArithmetic arithmetic;
    check_backward("batch_norm_backward_sums", inputs, dy, saved);
    Call call(inputs, saved.options, saved.options.axis, Sums::kTaken);
    call.problem.from_output = saved.in_place;
    call.read(&cpu::Problem::residual, inputs.residual);
    call.read(&cpu::Problem::dy, dy);
    const std::size_t channels = static_cast<std::size_t>(saved.channels);
    GradientSums sums{std::vector<double>(channels, cpu::count_taking_part(call.problem)),
                      std::vector<double>(channels), std::vector<double>(channels)};
    cpu::gradient_sums(call.problem, statistics_of(saved), sums.sum_dy.data(), sums.sum_dy_xmu.data());
    return sums;
}

void batch_norm_backward(const BatchNormInputs& inputs, const TensorView& dy, BatchNormSaved& saved,
                         const GradientSums* total, const TensorView& dx, const TensorView& dresidual, double* dgamma,
                         double* dbeta) {
    const char* const operation = "batch_norm_backward";
    const cpu::StandardArithmetic arithmetic;
    check_backward(operation, inputs, dy, saved);
    check_like(operation, "out", dx, "dy", inputs.x);
    const api::Memory out = api::memory_of(dx);
    if (!api::same_memory(dx, dy)) check_disjoint(operation, out, "dy", dy);
    check_disjoint(operation, out, "x", inputs.x);
    check_disjoint(operation, out, "residual", inputs.residual);
    check_disjoint(operation, out, inputs.where);
    api::check_output(operation, out);
    if (total == nullptr && saved.foreign_stats) {
        fail(operation,
             "sums is None, expected the GradientSums of the whole batch, since stats counted other elements "
             "than x has");
    }
    if (total != nullptr && total->count.size() != static_cast<std::size_t>(saved.channels)) {
        fail(operation, "sums has " + std::to_string(total->count.size()) + " channels, expected " +
                            std::to_string(saved.channels));
    }
    Call call(inputs, saved.options, saved.options.axis, Sums::kTaken);
    call.problem.from_output = saved.in_place;
    call.read(&cpu::Problem::residual, inputs.residual);
    call.read(&cpu::Problem::dy, dy);
    call.write(&cpu::Problem::dx, dx);
    call.write(&cpu::Problem::dresidual, dresidual);
    cpu::TotalSums sums{};
    if (total != nullptr) {
        check_counts(operation, "sums", total->count, cpu::count_taking_part(call.problem));
        sums = {total->count.data(), total->sum_dy.data(), total->sum_dy_xmu.data()};
    }
    cpu::backward(call.problem, statistics_of(saved), saved.frozen, total != nullptr ? &sums : nullptr, dgamma, dbeta);
    call.finish();
}

}  // namespace bnfast
