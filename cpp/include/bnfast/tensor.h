// TensorView: a description of memory that somebody else owns.
#pragma once

#include <cstdint>

namespace bnfast {

// kBool is the type of `where` alone: one byte an element, of which any but zero is true.
enum class DType : int { kFloat32, kFloat64, kFloat16, kBFloat16, kBool };

constexpr std::int64_t item_size(DType dtype) {
    switch (dtype) {
        case DType::kFloat64: return 8;
        case DType::kFloat32: return 4;
        case DType::kBool: return 1;
        default: return 2;
    }
}

// Where memory is. A call works on the device of its tensors, which must be the same for all of them.
struct Device {
    enum class Type : int { kCpu, kCuda };
    Type type = Type::kCpu;
    int index = 0;
    void* stream = nullptr;  // of CUDA: the cudaStream_t on which a call is enqueued; that of x counts

    friend bool operator==(const Device& a, const Device& b) { return a.type == b.type && a.index == b.index; }
    friend bool operator!=(const Device& a, const Device& b) { return !(a == b); }
};

constexpr int kMaxDims = 64;  // NumPy's limit

// An array of any strides. Its shape and strides are memory of the caller's, as its elements are: `ndim` lengths, and
// as many distances in bytes, which may be zero or negative. `data` may be written through only where an argument is
// documented as an output, and may be null only where the tensor has no elements.
struct TensorView {
    void* data = nullptr;
    const std::int64_t* shape = nullptr;
    const std::int64_t* strides = nullptr;
    int ndim = 0;
    DType dtype = DType::kFloat32;
    Device device;
};

}  // namespace bnfast
