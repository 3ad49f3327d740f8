// The memory layout of DLPack, by which libraries describe arrays to each other: https://dmlc.github.io/dlpack/latest.
#pragma once

#include <cstdint>

namespace bnfast::bindings::dlpack {

enum DeviceType : std::int32_t { kCpu = 1, kCuda = 2 };
struct Device {
    std::int32_t type;
    std::int32_t index;
};

enum TypeCode : std::uint8_t { kInt = 0, kFloat = 2, kBFloat = 4, kBool = 6 };
struct DataType {
    std::uint8_t code;
    std::uint8_t bits;
    std::uint16_t lanes;
};

// Strides count elements. They may be null for C order, before version 1.2.
struct Tensor {
    void* data;
    Device device;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t* shape;
    std::int64_t* strides;
    std::uint64_t byte_offset;
};

// A tensor with its owner, whose deleter is to be called once. This is the form before version 1.0.
struct LegacyTensor {
    Tensor tensor;
    void* context;
    void (*deleter)(LegacyTensor*);
};

struct Version {
    std::uint32_t major;
    std::uint32_t minor;
};
constexpr Version kVersion{1, 0};
constexpr std::uint64_t kReadOnly = 1;  // a flag

struct VersionedTensor {
    Version version;
    void* context;
    void (*deleter)(VersionedTensor*);
    std::uint64_t flags;
    Tensor tensor;
};

// What a type of arrays may offer as `__dlpack_c_exchange_api__`: the same without capsules and Python calls. Functions
// return 0, or -1 with a Python error set.
struct ExchangeHeader {
    Version version;
    ExchangeHeader* previous;
};
struct Exchange {
    ExchangeHeader header;
    int (*allocate)(Tensor* prototype, VersionedTensor** made, void* error_context,
                    void (*set_error)(void* error_context, const char* kind, const char* message));
    int (*share)(void* object, VersionedTensor** shared);
    int (*adopt)(VersionedTensor* tensor, void** object);
    int (*borrow)(void* object, Tensor* borrowed);  // valid while the object is as it is; may be null
    int (*current_stream)(DeviceType type, std::int32_t index, void** stream);
};

}  // namespace bnfast::bindings::dlpack
