// Memory of the CPU, as the backend of any device has memory.
#include "cpu/memory.h"

#include <cstring>
#include <new>

#include "bnfast/layout.h"

namespace bnfast::cpu {
namespace {

constexpr std::align_val_t kAlignment{64};  // a cache line

template <class T>
void store(double value, char* out) {
    const T rounded = static_cast<T>(value);
    std::memcpy(out, &rounded, sizeof rounded);
}

}  // namespace

void* allocate(const Device&, std::size_t bytes) { return operator new(bytes, kAlignment); }
void release(const Device&, void* memory) { operator delete(memory, kAlignment); }
void copy(const Device&, void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
}

void store_numbers(const double* values, const double* divisors, const TensorView& out) {
    const auto put = out.dtype == DType::kFloat64 ? &store<double> : &store<float>;
    char* at = static_cast<char*>(out.data);
    std::int64_t index[kMaxDims] = {};
    for (std::int64_t i = 0, count = elements_of(out); i < count; ++i) {
        put(divisors == nullptr ? values[i] : values[i] / divisors[i], at);
        for (int d = out.ndim - 1; d >= 0; --d) {  // to the next index
            at += out.strides[d];
            if (++index[d] < out.shape[d]) break;
            at -= out.strides[d] * out.shape[d];
            index[d] = 0;
        }
    }
}

}  // namespace bnfast::cpu
