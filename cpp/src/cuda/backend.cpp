// CUDA as a backend: each call is bound to memory of a GPU, and becomes some launches.
#include "cuda/backend.h"

#include <algorithm>
#include <exception>
#include <vector>

#include "cuda/binding.h"
#include "cuda/dropout.h"
#include "cuda/kernels/table.h"
#include "cuda/numbers.h"

namespace bnfast::cuda {
namespace {

// --- questions --------------------------------------------------------------------------------------------------

// Numbers that lie on the device are not looked at: the host would have to wait for them.
std::optional<FoundNumber> first_negative(const TensorView&) { return std::nullopt; }
std::optional<FoundNumber> first_small_gamma(const ChannelInputs&, std::int64_t, const SmallestGamma&) {
    return std::nullopt;
}

std::int64_t count_taking_part(const NormProblem& problem) {
    const Geometry& g = problem.layout.geometry;
    if (!problem.where) return g.outer * g.inner;
    const OnDevice device(problem.x.device.index);
    std::int64_t elements;
    const auto dense = dense_where(*problem.where, problem.x, problem.layout, elements);
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(elements));
    copy_to_host(bytes.data(), dense.get(), bytes.size(), stream_of(problem.x));
    return std::count_if(bytes.begin(), bytes.end(), [](std::uint8_t byte) { return byte != 0; });
}

// --- the state --------------------------------------------------------------------------------------------------

void set_channels(const NormProblem& problem, const ChannelInputs& inputs) {
    const OnDevice device(problem.x.device.index);
    const Stream stream = stream_of(problem.x);
    const StateNumbers& numbers = problem.numbers;
    FillNumbersKernel fill;
    fill.entries = numbers.parameters;
    std::vector<DeviceMemory<char>> copies;
    const auto add = [&](const std::optional<TensorView>& view, double absent, double* out) {
        NumberRow& row = fill.rows[fill.count++];
        row.absent = absent;
        row.out = out;
        if (view) row = number_row(*view, out, copies, stream);
    };
    add(inputs.gamma, 1.0, numbers.gamma());
    add(inputs.beta, 0.0, numbers.beta());
    if (inputs.mean) {
        add(inputs.mean, 0.0, numbers.mean());
        add(inputs.var, 1.0, numbers.m2());
        add({}, 0.0, numbers.mean_low());
        add({}, 1.0, numbers.count());
    }
    fill_numbers(fill, stream);
}

void set_statistics(const NormProblem& problem, const Moments& moments) {
    const OnDevice device(problem.x.device.index);
    const StateNumbers& state = problem.numbers;
    const std::size_t count = moments.count.size();
    std::vector<double> rows(moments.count.begin(), moments.count.end());
    for (const std::vector<double>* row : {&moments.mean, &moments.mean_low, &moments.m2}) {
        rows.insert(rows.end(), row->begin(), row->end());
    }
    // In the order of a state's rows.
    if (count > 0) copy_to_device(state.count(), rows.data(), rows.size() * sizeof(double), stream_of(problem.x));
}

// --- passes over tensors ----------------------------------------------------------------------------------------

enum class Statistics { kMeasured, kGiven };

void run_forward(const NormProblem& problem, Statistics statistics) {
    const OnDevice device(problem.x.device.index);
    Binding binding(problem);
    NormTask task = binding.task();
    task.measures = statistics == Statistics::kMeasured;
    task.writes = problem.y.has_value();
    kernels_of(problem.x.dtype).forward(task, binding.rows(), stream_of(problem.x));
    binding.finish();
}

void moments(const NormProblem& problem, Moments& out) {
    const OnDevice device(problem.x.device.index);
    const Stream stream = stream_of(problem.x);
    NormProblem measuring = problem;
    const std::int64_t statistics = problem.layout.statistics();
    const auto count = static_cast<std::size_t>(statistics);
    measuring.numbers.statistics = statistics;
    const DeviceMemory<double> numbers(measuring.numbers.size(), stream);
    measuring.numbers.values = numbers.get();
    run_forward(measuring, Statistics::kMeasured);
    std::vector<double> rows(4 * count);
    if (count > 0) copy_to_host(rows.data(), numbers.get(), rows.size() * sizeof(double), stream);
    const auto row = [&](std::size_t r) { return rows.begin() + static_cast<std::ptrdiff_t>(r * count); };
    out.count.assign(row(0), row(1));
    out.mean.assign(row(1), row(2));
    out.mean_low.assign(row(2), row(3));
    out.m2.assign(row(3), row(4));
}

void forward(const NormProblem& problem) { run_forward(problem, Statistics::kMeasured); }
void normalise(const NormProblem& problem) { run_forward(problem, Statistics::kGiven); }

void inference(const NormProblem& problem, const ChannelInputs& inputs) {
    const OnDevice device(problem.x.device.index);
    const DeviceMemory<double> numbers(problem.numbers.size(), stream_of(problem.x));
    NormProblem with_numbers = problem;
    with_numbers.numbers.values = numbers.get();
    set_channels(with_numbers, inputs);
    normalise(with_numbers);
}

// --- backward ---------------------------------------------------------------------------------------------------

void gradient_sums(const NormProblem& problem, GradientSums& out) {
    const OnDevice device(problem.x.device.index);
    const Stream stream = stream_of(problem.x);
    const std::int64_t channels = problem.layout.statistics();
    const auto count = static_cast<std::size_t>(channels);
    const DeviceMemory<double> sums(2 * channels, stream);
    const Binding binding(problem);
    NormTask task = binding.task();
    task.sums = true;
    task.sum_dz = sums.get();
    task.sum_dz_xmu = sums.get() + channels;
    DeviceMemory<double> unused;
    kernels_of(problem.x.dtype).backward(task, binding.rows(), unused, stream);
    std::vector<double> rows(2 * count);
    if (count > 0) copy_to_host(rows.data(), sums.get(), rows.size() * sizeof(double), stream);
    out.count.assign(count, count_taking_part(problem));
    out.sum_dy.assign(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(count));
    out.sum_dy_xmu.assign(rows.begin() + static_cast<std::ptrdiff_t>(count), rows.end());
}

// values[p] = the sum over some rows of entry p.
void add(const double* rows, std::int64_t count, std::int64_t pitch, std::int64_t entries, double* values,
         Stream stream) {
    AddRowsKernel kernel;
    kernel.values = rows;
    kernel.rows = count;
    kernel.pitch = pitch;
    kernel.entries = entries;
    kernel.out = values;
    add_rows(kernel, stream);
}

void run_backward(const NormProblem& problem, NormTask task, Binding& binding) {
    const Stream stream = stream_of(problem.x);
    const ElementKernels& kernels = kernels_of(problem.x.dtype);
    const std::int64_t parameters = problem.numbers.parameters;
    DeviceMemory<double> partials;
    if (binding.is_empty()) {
        add(nullptr, 0, 0, parameters, problem.dgamma, stream);
        add(nullptr, 0, 0, parameters, problem.dbeta, stream);
    } else if (task.parameters == ParametersAre::kAlongInner) {
        const std::int64_t rows = kernels.backward(task, binding.rows(), partials, stream);
        add(partials.get(), rows, 2 * parameters, parameters, problem.dbeta, stream);
        add(partials.get() + parameters, rows, 2 * parameters, parameters, problem.dgamma, stream);
    } else {
        // Of each channel of each sample, where these have statistics of their own.
        const bool of_samples = binding.layout().boxes_are_samples();
        const std::int64_t channels = binding.layout().channels();
        const DeviceMemory<double> sums(of_samples ? 2 * channels : 0, stream);
        NormTask summing = task;
        summing.dgamma = of_samples ? sums.get() : problem.dgamma;
        summing.dbeta = of_samples ? sums.get() + channels : problem.dbeta;
        if (task.parameters == ParametersAre::kOfChannel) {
            summing.sums = true;
            summing.units_of_statistic = task.share;
            summing.share = Divider(1);
            kernels.backward(summing, binding.rows(), partials, stream);
            kernels.backward(task, binding.rows(), partials, stream);
        } else {
            kernels.backward(summing, binding.rows(), partials, stream);
        }
        if (of_samples) {
            add(summing.dgamma, task.boxes, parameters, parameters, problem.dgamma, stream);
            add(summing.dbeta, task.boxes, parameters, parameters, problem.dbeta, stream);
        }
    }
    binding.finish();
}

void backward(const NormProblem& problem) {
    const OnDevice device(problem.x.device.index);
    Binding binding(problem);
    run_backward(problem, binding.task(), binding);
}

void backward_with_sums(const NormProblem& problem, const GradientSums& total) {
    const OnDevice device(problem.x.device.index);
    const Stream stream = stream_of(problem.x);
    const std::size_t channels = total.count.size();
    std::vector<double> rows(total.count.begin(), total.count.end());
    rows.insert(rows.end(), total.sum_dy.begin(), total.sum_dy.end());
    rows.insert(rows.end(), total.sum_dy_xmu.begin(), total.sum_dy_xmu.end());
    const DeviceMemory<double> numbers(static_cast<std::int64_t>(rows.size()), stream);
    if (channels > 0) copy_to_device(numbers.get(), rows.data(), rows.size() * sizeof(double), stream);
    Binding binding(problem);
    NormTask task = binding.task();
    task.total_count = numbers.get();
    task.total_dz = numbers.get() + channels;
    task.total_dz_xmu = numbers.get() + 2 * channels;
    run_backward(problem, task, binding);
}

// --- memory -----------------------------------------------------------------------------------------------------

void* allocate_on(const Device& device, std::size_t bytes) {
    const OnDevice current(device.index);
    return allocate(bytes, device.stream);
}
// Memory may be given back when CUDA has failed, or has ended with the process: it is then gone in any case.
void release_on(const Device& device, void* memory) {
    try {
        const OnDevice current(device.index);
        release(memory, device.stream);
    } catch (const std::exception&) {
    }
}
void copy_numbers_to_host(const Device& device, void* to, const void* from, std::size_t bytes) {
    const OnDevice current(device.index);
    copy_to_host(to, from, bytes, device.stream);
}
void copy_from_host(const Device& device, void* to, const void* from, std::size_t bytes) {
    const OnDevice current(device.index);
    copy_to_device(to, from, bytes, device.stream);
}
void store_numbers(const double* values, const double* divisors, const TensorView& out) {
    const OnDevice current(out.device.index);
    store_rounded(values, divisors, out, stream_of(out));
}
void order_streams(const Device& earlier, const Device& later) {
    const OnDevice current(earlier.index);
    order(earlier.stream, later.stream);
}

constexpr Backend make_backend() {
    Backend result{};
    result.name = "cuda";
    result.first_negative = &first_negative;
    result.first_small_gamma = &first_small_gamma;
    result.count_taking_part = &count_taking_part;
    result.set_channels = &set_channels;
    result.set_statistics = &set_statistics;
    result.moments = &moments;
    result.forward = &forward;
    result.normalise = &normalise;
    result.inference = &inference;
    result.gradient_sums = &gradient_sums;
    result.backward = &backward;
    result.backward_with_sums = &backward_with_sums;
    result.dropout = &dropout;
    result.dropout_mask = &dropout_mask;
    result.allocate = &allocate_on;
    result.release = &release_on;
    result.copy_to_host = &copy_numbers_to_host;
    result.copy_from_host = &copy_from_host;
    result.store_numbers = &store_numbers;
    result.order = &order_streams;
    return result;
}

}  // namespace

constexpr Backend kBackend = make_backend();

}  // namespace bnfast::cuda
