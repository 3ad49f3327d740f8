// Per-channel arrays of the caller as float64. Where channels are many and short they are shared out as
// channels_per_task says, so that a thread finds in its own cache what it wrote.
#include "cpu/parameters.h"

#include <algorithm>
#include <cstring>

#include "cpu/schedule.h"

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

void fill(const ChannelValues& values, std::int64_t begin, std::int64_t end) {
    double* const out = values.out + begin;
    if (values.source == nullptr) {
        std::fill_n(out, end - begin, values.absent);
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

}  // namespace

void fill_channels(const ChannelValues* values, int count, std::int64_t channels, std::int64_t elements) {
    constexpr std::int64_t kMany = 4096;  // channels: fewer are not worth a meeting of threads
    const int threads = channels < kMany ? 1 : useful_threads(elements);
    const std::int64_t step = threads == 1 ? std::max<std::int64_t>(channels, 1) : channels_per_task(channels, threads);
    for_each_range(channels, step, threads, [&](std::int64_t begin, std::int64_t end) {
        for (int k = 0; k < count; ++k) fill(values[k], begin, end);
    });
}

}  // namespace bnfast::cpu
