// Per-channel arrays of the caller as float64. Where channels are many and short they are shared out as
// channels_per_task says, so that a thread finds in its own cache what it wrote.
#include "cpu/parameters.h"

#include <algorithm>
#include <cstring>

#include "cpu/schedule.h"
#include "numerics/coefficients.h"

namespace bnfast::cpu {
namespace {

template <class T>
void convert(const char* source, std::int64_t stride, std::int64_t n, double* out) {
    for (std::int64_t i = 0; i < n; ++i) {
        T value;
        std::memcpy(&value, source + i * stride, sizeof value);
        out[i] = static_cast<double>(value);
    }
}

// The address of entry i of a view, counted in C order.
const char* entry_of(const TensorView& view, std::int64_t i) {
    const char* p = static_cast<const char*>(view.data);
    for (int d = view.ndim - 1; d >= 0; --d) {
        p += i % view.shape[d] * view.strides[d];
        i /= view.shape[d];
    }
    return p;
}

void fill(const ChannelValues& values, std::int64_t begin, std::int64_t end) {
    double* const out = values.out + begin;
    if (values.source == nullptr) {
        std::fill_n(out, end - begin, values.absent);
        return;
    }
    if (values.view != nullptr) {
        for (std::int64_t i = begin; i < end; ++i) {
            const char* const entry = entry_of(*values.view, i);
            if (values.is_double) {
                convert<double>(entry, 0, 1, values.out + i);
            } else {
                convert<float>(entry, 0, 1, values.out + i);
            }
        }
        return;
    }
    const char* const source = static_cast<const char*>(values.source) + begin * values.stride;
    if (values.is_double) {
        convert<double>(source, values.stride, end - begin, out);
    } else if (values.stride == sizeof(float)) {
        convert<float>(source, sizeof(float), end - begin, out);  // a loop of vectors
    } else {
        convert<float>(source, values.stride, end - begin, out);
    }
}

template <class T>
AlongInner along_of(Scratch& scratch, const NormProblem& problem) {
    const StateNumbers& numbers = problem.numbers;
    const std::int64_t inner = problem.layout.geometry.inner;
    AlongInner along;
    along.used = true;
    along.period = inner == 0 ? 1 : numbers.parameters / inner;
    const auto row = [&](auto value) {
        T* const values = scratch.take<T>(numbers.parameters + kPadding);
        for (std::int64_t p = 0; p < numbers.parameters; ++p) values[p] = static_cast<T>(value(p));
        // Continued periodically, for vectors that reach into the next channel.
        for (std::int64_t p = 0; p < kPadding && numbers.parameters > 0; ++p)
            values[numbers.parameters + p] = values[p];
        return values;
    };
    along.gamma = row([&](std::int64_t p) { return numbers.gamma()[p]; });
    along.beta = row([&](std::int64_t p) { return numbers.beta()[p]; });
    along.has_inverse = problem.from_output;
    if (along.has_inverse) {
        along.inverse = row([&](std::int64_t p) { return numerics::inverse_scale<T>(numbers.gamma()[p]); });
    }
    return along;
}

}  // namespace

AlongInner parameters_along(Scratch& scratch, const NormProblem& problem) {
    return problem.x.dtype == DType::kFloat64 ? along_of<double>(scratch, problem) : along_of<float>(scratch, problem);
}

void fill_channels(const ChannelValues* values, int count, std::int64_t channels, std::int64_t elements) {
    constexpr std::int64_t kMany = 4096;  // channels: fewer are not worth a meeting of threads
    const int threads = channels < kMany ? 1 : useful_threads(elements);
    const std::int64_t step = threads == 1 ? std::max<std::int64_t>(channels, 1) : channels_per_task(channels, threads);
    for_each_range(channels, step, threads, [&](std::int64_t begin, std::int64_t end) {
        for (int k = 0; k < count; ++k) fill(values[k], begin, end);
    });
}

}  // namespace bnfast::cpu
