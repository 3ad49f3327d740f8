// TensorView: a description of memory that somebody else owns.
#pragma once

#include <cstdint>

namespace bnfast {

enum class DType : int { kFloat32, kFloat64, kFloat16, kBFloat16 };

constexpr int kMaxDims = 64;  // NumPy's limit

// Shape and strides. Entries from ndim on are neither set nor copied: a call of microseconds makes a dozen views.
struct Strided {
    int ndim = 0;
    std::int64_t shape[kMaxDims];
    std::int64_t strides[kMaxDims];  // in bytes, may be zero or negative

    Strided() {}
    Strided(const Strided& other) { *this = other; }
    Strided& operator=(const Strided& other) {
        ndim = other.ndim;
        for (int d = 0; d < ndim; ++d) {
            shape[d] = other.shape[d];
            strides[d] = other.strides[d];
        }
        return *this;
    }
};

// An array of any strides. `data` may be written through only where an argument is documented as an output.
struct TensorView : Strided {
    void* data = nullptr;
    DType dtype = DType::kFloat32;
};

constexpr std::int64_t item_size(DType dtype) {
    return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

}  // namespace bnfast
