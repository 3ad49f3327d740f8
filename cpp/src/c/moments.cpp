// Per-channel statistics and sums of the C face: as the C++ ones, and back, and their merge.
#include "c/moments.h"

#include <algorithm>
#include <string>

#include "bnfast/batch_norm.h"
#include "c/arguments.h"
#include "c/status.h"

namespace bnfast::c {
namespace {

void check_arrays(const char* operation, const std::string& name, std::int64_t channels,
                  std::initializer_list<const void*> arrays) {
    if (channels < 0) fail(operation, name + ".channels is " + std::to_string(channels) + ", expected 0 or more");
    for (const void* array : arrays) {
        if (channels > 0 && array == nullptr) fail(operation, "an array of " + name + " is NULL");
    }
}

bnfast_moments with_arrays(const char* operation, const char* name, const bnfast_moments* given) {
    const bnfast_moments m = checked(operation, name, given);
    check_arrays(operation, name, m.channels, {m.count, m.mean, m.mean_low, m.m2});
    return m;
}

bnfast_gradient_sums with_arrays(const char* operation, const char* name, const bnfast_gradient_sums* given) {
    const bnfast_gradient_sums s = checked(operation, name, given);
    check_arrays(operation, name, s.channels, {s.count, s.sum_dy, s.sum_dy_xmu});
    return s;
}

void check_channels(const char* operation, const char* name, std::int64_t channels, std::size_t expected) {
    if (channels == static_cast<std::int64_t>(expected)) return;
    fail(operation,
         std::string(name) + ".channels is " + std::to_string(channels) + ", expected " + std::to_string(expected));
}

}  // namespace

Moments moments_of(const char* operation, const char* name, const bnfast_moments* moments) {
    const bnfast_moments m = with_arrays(operation, name, moments);
    const auto n = m.channels;
    return {{m.count, m.count + n}, {m.mean, m.mean + n}, {m.mean_low, m.mean_low + n}, {m.m2, m.m2 + n}};
}

GradientSums sums_of(const char* operation, const char* name, const bnfast_gradient_sums* sums) {
    const bnfast_gradient_sums s = with_arrays(operation, name, sums);
    const auto n = s.channels;
    return {{s.count, s.count + n}, {s.sum_dy, s.sum_dy + n}, {s.sum_dy_xmu, s.sum_dy_xmu + n}};
}

void copy(const char* operation, const char* name, const Moments& from, const bnfast_moments* to) {
    const bnfast_moments m = with_arrays(operation, name, to);
    check_channels(operation, name, m.channels, from.count.size());
    std::copy(from.count.begin(), from.count.end(), m.count);
    std::copy(from.mean.begin(), from.mean.end(), m.mean);
    std::copy(from.mean_low.begin(), from.mean_low.end(), m.mean_low);
    std::copy(from.m2.begin(), from.m2.end(), m.m2);
}

void copy(const char* operation, const char* name, const GradientSums& from, const bnfast_gradient_sums* to) {
    const bnfast_gradient_sums s = with_arrays(operation, name, to);
    check_channels(operation, name, s.channels, from.count.size());
    std::copy(from.count.begin(), from.count.end(), s.count);
    std::copy(from.sum_dy.begin(), from.sum_dy.end(), s.sum_dy);
    std::copy(from.sum_dy_xmu.begin(), from.sum_dy_xmu.end(), s.sum_dy_xmu);
}

}  // namespace bnfast::c

using namespace bnfast::c;

bnfast_status bnfast_measure(const bnfast_tensor* x, const bnfast_tensor* where, int32_t axis,
                             const bnfast_moments* moments) {
    const char* const operation = "moments";
    return status_of(operation, [&] {
        const Tensor tensor(operation, "x", x), mask(operation, "where", where);
        copy(operation, "moments", bnfast::moments(tensor.required(), mask.optional(), axis), moments);
    });
}

bnfast_status bnfast_merge_moments(const bnfast_moments* into, const bnfast_moments* other) {
    const char* const operation = "merge_moments";
    return status_of(operation, [&] {
        bnfast::Moments merged = moments_of(operation, "into", into);
        merge(merged, moments_of(operation, "other", other));
        copy(operation, "into", merged, into);
    });
}

bnfast_status bnfast_merge_gradient_sums(const bnfast_gradient_sums* into, const bnfast_gradient_sums* other) {
    const char* const operation = "merge_gradient_sums";
    return status_of(operation, [&] {
        bnfast::GradientSums merged = sums_of(operation, "into", into);
        merge(merged, sums_of(operation, "other", other));
        copy(operation, "into", merged, into);
    });
}
