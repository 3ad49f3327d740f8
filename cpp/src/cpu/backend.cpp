// The CPU as a backend: each call is bound to memory, and each of its boxes is computed.
#include "cpu/backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/arithmetic.h"
#include "cpu/binding.h"
#include "cpu/caches.h"
#include "cpu/dropout.h"
#include "cpu/memory.h"
#include "cpu/norm.h"
#include "cpu/parameters.h"
#include "cpu/schedule.h"
#include "cpu/scratch.h"
#include "cpu/stream.h"
#include "cpu/target.h"

namespace bnfast::cpu {
namespace {

// --- boxes ------------------------------------------------------------------------------------------------------

// Runs body(box) for all boxes: several at once where there is one for each thread, otherwise all threads work on one
// after the other.
template <class Body>
void for_each_box(const Binding& binding, std::int64_t elements, const Body& body) {
    const int threads = useful_threads(elements);
    parallel_for(binding.boxes(), binding.boxes() >= threads ? threads : 1, body);
}

// The order in which a call with dropout counts elements: that of its mask. Without, it is the order of memory.
Layout walked_layout(const NormProblem& problem) {
    if (!problem.epilogue.has_dropout()) return problem.layout;
    return index_layout(problem.x, problem.layout.axes);
}

NormProblem without_results(const NormProblem& problem) {
    NormProblem measuring = problem;
    measuring.epilogue = Epilogue{};
    measuring.y.reset();
    return measuring;
}

void normalise_boxes(const NormProblem& problem, Invstd invstd) {
    Binding binding(problem, walked_layout(problem), Walk::kElementwise);
    for_each_box(binding, problem.layout.elements(),
                 [&](std::int64_t box) { cpu::normalise(binding.problem(box), binding.statistics(box), invstd); });
    binding.finish();
}

void measure_boxes(const NormProblem& problem) {
    const Binding binding(problem, problem.layout, Walk::kSumming);
    for_each_box(binding, problem.layout.elements(),
                 [&](std::int64_t box) { cpu::moments(binding.problem(box), binding.statistics(box)); });
}

// --- numbers of channels ---------------------------------------------------------------------------------------

ChannelValues values_of(const std::optional<TensorView>& view, double absent, double* out) {
    ChannelValues values;
    values.absent = absent;
    values.out = out;
    if (!view) return values;
    values.source = view->data;
    values.stride = view->ndim == 0 ? 0 : view->strides[view->ndim - 1];
    for (int d = view->ndim - 1; d > 0; --d) {
        if (view->strides[d - 1] != view->strides[d] * view->shape[d]) values.view = &*view;
    }
    values.is_double = view->dtype == DType::kFloat64;
    return values;
}

// --- questions --------------------------------------------------------------------------------------------------

template <class T>
std::optional<FoundNumber> first_negative(const char* source, std::int64_t stride, std::int64_t count) {
    const auto value = [&](std::int64_t i) {
        T result;
        std::memcpy(&result, source + i * stride, sizeof result);
        return result;
    };
    bool any = false;
    for (std::int64_t i = 0; i < count; ++i) any |= value(i) < 0;
    for (std::int64_t i = 0; any && i < count; ++i) {
        if (value(i) < 0) return FoundNumber{i, static_cast<double>(value(i)), 0.0};
    }
    return std::nullopt;
}

std::optional<FoundNumber> first_negative(const TensorView& values) {
    const char* const source = static_cast<const char*>(values.data);
    const std::int64_t stride = values.strides[0], count = values.shape[0];
    if (values.dtype == DType::kFloat64) return first_negative<double>(source, stride, count);
    if (stride == sizeof(float)) return first_negative<float>(source, sizeof(float), count);  // a loop of vectors
    return first_negative<float>(source, stride, count);
}

std::optional<FoundNumber> first_small_gamma(const ChannelInputs& inputs, std::int64_t channels,
                                             const SmallestGamma& smallest) {
    Scratch scratch;
    double* const gamma = scratch.take<double>(channels);
    double* const beta = scratch.take<double>(channels);
    const ChannelValues values[] = {values_of(inputs.gamma, 1.0, gamma), values_of(inputs.beta, 0.0, beta)};
    fill_channels(values, 2, channels, channels);
    for (std::int64_t c = 0; c < channels; ++c) {
        const double least = std::fmax(std::fabs(beta[c]) * smallest.of_beta, smallest.absolute);
        if (!(std::fabs(gamma[c]) >= least)) return FoundNumber{c, gamma[c], least};
    }
    return std::nullopt;
}

std::int64_t count_of(const NormProblem& problem) {
    if (!problem.where) return problem.layout.geometry.outer * problem.layout.geometry.inner;
    const PackedWhere where = pack_where(*problem.where, problem.x, problem.layout);
    std::int64_t count = 0;
    for (const std::uint8_t byte : where.bytes) count += __builtin_popcount(byte);
    return count;
}

// --- the state --------------------------------------------------------------------------------------------------

void set_channels(const NormProblem& problem, const ChannelInputs& inputs) {
    const StateNumbers& numbers = problem.numbers;
    const ChannelValues values[] = {values_of(inputs.gamma, 1.0, numbers.gamma()),
                                    values_of(inputs.beta, 0.0, numbers.beta()),
                                    values_of(inputs.mean, 0.0, numbers.mean()),
                                    values_of(inputs.var, 1.0, numbers.m2()),
                                    values_of({}, 0.0, numbers.mean_low()),
                                    values_of({}, 1.0, numbers.count())};
    const int count = inputs.mean ? 6 : 2;
    fill_channels(values, count, numbers.parameters, problem.layout.elements());
}

void set_statistics(const NormProblem& problem, const Moments& moments) {
    const StateNumbers& state = problem.numbers;
    std::copy(moments.count.begin(), moments.count.end(), state.count());
    std::copy(moments.mean.begin(), moments.mean.end(), state.mean());
    std::copy(moments.mean_low.begin(), moments.mean_low.end(), state.mean_low());
    std::copy(moments.m2.begin(), moments.m2.end(), state.m2());
}

// --- passes over tensors ----------------------------------------------------------------------------------------

void moments_of(const NormProblem& problem, Moments& out) {
    const StandardArithmetic arithmetic;
    const std::size_t count = static_cast<std::size_t>(problem.layout.statistics());
    for (std::vector<double>* row : {&out.mean, &out.mean_low, &out.m2}) row->resize(count);
    const Binding binding(problem, problem.layout, Walk::kSumming);
    Scratch scratch;
    Statistics all;
    all.count = scratch.take<double>(problem.layout.statistics());
    all.mean = out.mean.data();
    all.mean_low = out.mean_low.data();
    all.m2 = out.m2.data();
    all.invstd = scratch.take<double>(problem.layout.statistics());
    for_each_box(binding, problem.layout.elements(), [&](std::int64_t box) {
        const BoundProblem part = binding.problem(box);
        cpu::moments(part, all.from(box * part.geometry.channels));
    });
    out.count.assign(all.count, all.count + count);
}

void forward_of(const NormProblem& problem) {
    const StandardArithmetic arithmetic;
    const Layout walked = walked_layout(problem);
    if (!same_order(walked, problem.layout)) {
        // The mask counts elements by index. The statistics are those of x as it lies in memory, as without dropout.
        measure_boxes(without_results(problem));
        return normalise_boxes(problem, Invstd::kThere);
    }
    Binding binding(problem, walked, Walk::kSumming);
    for_each_box(binding, problem.layout.elements(),
                 [&](std::int64_t box) { cpu::forward(binding.problem(box), binding.statistics(box)); });
    binding.finish();
}

void normalise_of(const NormProblem& problem) {
    const StandardArithmetic arithmetic;
    normalise_boxes(problem, Invstd::kFromVariance);
}

void inference_of(const NormProblem& problem, const ChannelInputs& inputs) {
    Scratch scratch;
    NormProblem with_numbers = problem;
    with_numbers.numbers.values = scratch.take<double>(problem.numbers.size());
    set_channels(with_numbers, inputs);
    normalise_of(with_numbers);
}

void gradient_sums_of(const NormProblem& problem, GradientSums& out) {
    const StandardArithmetic arithmetic;
    const std::size_t count = static_cast<std::size_t>(problem.layout.statistics());
    for (std::vector<double>* row : {&out.sum_dy, &out.sum_dy_xmu}) row->resize(count);
    out.count.resize(count);
    const Binding binding(problem, walked_layout(problem), Walk::kSumming);
    for_each_box(binding, problem.layout.elements(), [&](std::int64_t box) {
        const BoundProblem part = binding.problem(box);
        const std::int64_t first = box * part.geometry.channels;
        std::fill_n(out.count.data() + first, part.geometry.channels,
                    static_cast<std::int64_t>(count_taking_part(part)));
        cpu::gradient_sums(part, binding.statistics(box), {out.sum_dy.data() + first, out.sum_dy_xmu.data() + first});
    });
}

// values[p] = the sum over the samples, in their order, of what belongs to parameter p.
void add_samples(const double* of_statistics, std::int64_t samples, std::int64_t parameters, double* values) {
    std::copy_n(of_statistics, samples == 0 ? 0 : parameters, values);
    if (samples == 0) std::fill_n(values, parameters, 0.0);
    for (std::int64_t n = 1; n < samples; ++n) {
        const double* const of_sample = of_statistics + n * parameters;
        for (std::int64_t p = 0; p < parameters; ++p) values[p] += of_sample[p];
    }
}

void backward_boxes(const NormProblem& problem, const std::optional<TotalSums>& total) {
    const StandardArithmetic arithmetic;
    const std::int64_t channels = problem.layout.channels(), parameters = problem.numbers.parameters;
    const StatisticsAre kind = problem.constant_statistics ? StatisticsAre::kConstant : StatisticsAre::kOfX;
    Binding binding(problem, walked_layout(problem), Walk::kSumming);
    Scratch scratch;
    const bool a_sample_each = problem.layout.boxes_are_samples();
    ParameterGradients out{problem.dgamma, problem.dbeta};
    if (problem.layout.parameters == ParameterMap::kAlongInner) {
        cpu::backward_along(binding.problem(0), binding.statistics(0), out);
        return binding.finish();
    }
    if (a_sample_each) out = {scratch.take<double>(channels), scratch.take<double>(channels)};
    for_each_box(binding, problem.layout.elements(), [&](std::int64_t box) {
        const BoundProblem part = binding.problem(box);
        const std::int64_t first = box * part.geometry.channels;
        cpu::backward(part, binding.statistics(box), kind, total, {out.dgamma + first, out.dbeta + first});
    });
    if (a_sample_each) {
        add_samples(out.dgamma, problem.layout.samples, parameters, problem.dgamma);
        add_samples(out.dbeta, problem.layout.samples, parameters, problem.dbeta);
    }
    binding.finish();
}

void backward_of(const NormProblem& problem) { backward_boxes(problem, std::nullopt); }

void backward_with_sums_of(const NormProblem& problem, const GradientSums& total) {
    const std::vector<double> count(total.count.begin(), total.count.end());
    backward_boxes(problem, TotalSums{count.data(), total.sum_dy.data(), total.sum_dy_xmu.data()});
}

void dropout_of(const DropoutProblem& problem) {
    const StandardArithmetic arithmetic;
    cpu::dropout(problem);
}

// --- the machine ------------------------------------------------------------------------------------------------

std::vector<const char*> target_names() {
    std::vector<const char*> names;
    for (const KernelTable& table : usable_targets()) names.emplace_back(table.name);
    return names;
}

constexpr Backend make_backend() {
    Backend result{};
    result.name = "cpu";
    result.first_negative = &first_negative;
    result.first_small_gamma = &first_small_gamma;
    result.count_taking_part = &count_of;
    result.set_channels = &set_channels;
    result.set_statistics = &set_statistics;
    result.moments = &moments_of;
    result.forward = &forward_of;
    result.normalise = &normalise_of;
    result.inference = &inference_of;
    result.gradient_sums = &gradient_sums_of;
    result.backward = &backward_of;
    result.backward_with_sums = &backward_with_sums_of;
    result.dropout = &dropout_of;
    result.dropout_mask = &expand_mask;
    result.allocate = &cpu::allocate;
    result.release = &cpu::release;
    result.copy_to_host = &cpu::copy;
    result.copy_from_host = &cpu::copy;
    result.store_numbers = &cpu::store_numbers;
    result.order = [](const Device&, const Device&) {};  // a call is over when it returns
    return result;
}

constexpr Host make_host() {
    Host result{};
    result.num_threads = &num_threads;
    result.set_num_threads = &set_num_threads;
    result.usable_cpus = &usable_cpus;
    result.threading_name = &threading_name;
    result.targets = &target_names;
    result.active_target = [] { return active_target().name; };
    result.select_target = &select_target;
    result.private_cache_bytes = &private_cache_bytes;
    result.shared_cache_bytes = &shared_cache_bytes;
    result.shared_cache_is_near = &shared_cache_is_near;
    result.stream_sum = &stream_sum;
    result.thresholds = &thresholds;
    result.randomise_schedule = &randomise_schedule;
    result.restore_schedule = &restore_schedule;
    return result;
}

}  // namespace

// Constants, so that they are there before any code of the program runs.
constexpr Backend kBackend = make_backend();
constexpr Host kHost = make_host();

}  // namespace bnfast::cpu
