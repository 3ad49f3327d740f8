// What the host asks of a GPU: launches, memory, and what the chip can do. runtime.cu asks CUDA; where kernels are
// tested on the CPU, tests/cuda/host_runtime.cpp answers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bnfast/tensor.h"
#include "cuda/device.h"

namespace bnfast::cuda {

using Stream = void*;  // a cudaStream_t; null is the default stream

// Makes a device the current one of the calling thread for the lifetime of the object. std::runtime_error where that
// fails, as by all functions here, with CUDA's own words.
class OnDevice {
  public:
    explicit OnDevice(int index);
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

  private:
    int previous_;
};

// The number of GPUs that can be used, and why there is none, or null.
int device_count();
const char* why_unavailable();

struct Properties {
    char name[64];
    int major, minor;  // compute capability
    int processors;    // streaming multiprocessors
    std::int64_t shared_per_processor;
    std::int64_t shared_per_block;  // at most, by opting in
    std::int64_t shared_reserved;   // of each block, by CUDA
    std::int64_t memory_bytes;
};
// Of the current device; asked once.
const Properties& properties();

// --- memory: all in the order of a stream -----------------------------------------------------------------------

void* allocate(std::size_t bytes, Stream stream);  // std::bad_alloc where there is no more
void release(void* memory, Stream stream) noexcept;
void fill_with_zeros(void* memory, std::size_t bytes, Stream stream);
void copy_to_device(void* to, const void* from, std::size_t bytes, Stream stream);  // `from` may change once it returns
void copy_to_host(void* to, const void* from, std::size_t bytes, Stream stream);    // returns when it is there
void synchronise(Stream stream);
// What is enqueued on `later` from now on runs after all that has been enqueued on `earlier`.
void order(Stream earlier, Stream later);

// Memory of a call, given back in the order of its stream.
template <class T>
class DeviceMemory {
  public:
    DeviceMemory() = default;
    DeviceMemory(std::int64_t count, Stream stream)
        : data_(count > 0 ? static_cast<T*>(allocate(static_cast<std::size_t>(count) * sizeof(T), stream)) : nullptr),
          stream_(stream) {}
    ~DeviceMemory() {
        if (data_ != nullptr) release(data_, stream_);
    }
    DeviceMemory(DeviceMemory&& other) noexcept : data_(other.data_), stream_(other.stream_) { other.data_ = nullptr; }
    DeviceMemory& operator=(DeviceMemory&& other) noexcept {
        T* const data = data_;
        const Stream stream = stream_;
        data_ = other.data_;
        stream_ = other.stream_;
        other.data_ = data;
        other.stream_ = stream;
        return *this;
    }
    T* get() const { return data_; }

  private:
    T* data_ = nullptr;
    Stream stream_ = nullptr;
};

// --- launches ---------------------------------------------------------------------------------------------------

struct Grid {
    std::int64_t blocks = 1;
    int threads = kMostThreads;
    std::int64_t shared_bytes = 0;
    bool together = false;  // all blocks run at once, and may wait for each other: a cooperative launch
};

#if defined(__CUDACC__)

namespace detail {
template <class Kernel>
__global__ void __launch_bounds__(kMostThreads, kLeastBlocks) run(const __grid_constant__ Kernel kernel) {
    kernel();
}
void launch(const void* function, const Grid& grid, void* arguments, Stream stream);
}  // namespace detail

template <class Kernel>
void launch(const Kernel& kernel, const Grid& grid, Stream stream) {
    detail::launch(reinterpret_cast<const void*>(&detail::run<Kernel>), grid, const_cast<Kernel*>(&kernel), stream);
}

#else

namespace detail {
void launch_on_host(void (*thread)(const void*), const void* kernel, const Grid& grid);
}  // namespace detail

template <class Kernel>
void launch(const Kernel& kernel, const Grid& grid, Stream) {
    detail::launch_on_host([](const void* k) { (*static_cast<const Kernel*>(k))(); }, &kernel, grid);
}

#endif

}  // namespace bnfast::cuda
