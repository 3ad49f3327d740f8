// What the host asks of a GPU, asked of CUDA: runtime.h for nvcc.
//
// All of it is legal on a stream that is being captured into a CUDA graph, but for what returns numbers to the host.
#include <cuda_runtime.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cuda/runtime.h"

namespace bnfast::cuda {
namespace {

cudaStream_t stream_of(Stream stream) { return static_cast<cudaStream_t>(stream); }

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    throw std::runtime_error(std::string("CUDA could not ") + what + ": " + cudaGetErrorString(status) + " (" +
                             cudaGetErrorName(status) + ")");
}

int current_device() {
    int index = 0;
    check(cudaGetDevice(&index), "name the current device");
    return index;
}

// Which capture a stream is in: 0 for none.
unsigned long long capture_of(Stream stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    unsigned long long number = 0;
    if (cudaStreamGetCaptureInfo(stream_of(stream), &status, &number) != cudaSuccess) return ~0ULL;
    if (status == cudaStreamCaptureStatusNone) return 0;
    return status == cudaStreamCaptureStatusActive ? number : ~0ULL;
}
bool is_captured(Stream stream) { return capture_of(stream) != 0; }

// To be asked before anything that waits: waiting for a stream that is captured would spoil the graph.
void check_not_captured(Stream stream, const char* what) {
    if (!is_captured(stream)) return;
    throw std::runtime_error(std::string("CUDA could not ") + what +
                             ": the stream is being captured into a CUDA graph, which runs later");
}

// --- which GPUs there are -----------------------------------------------------------------------------------------

struct Availability {
    int devices = 0;
    std::string reason;  // empty where there is a device
};

Availability look_for_devices() {
    Availability found;
    const cudaError_t status = cudaGetDeviceCount(&found.devices);
    if (status == cudaSuccess && found.devices > 0) return found;
    found.devices = 0;
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
        found.reason = "there is no CUDA driver on this machine";
    } else if (status == cudaSuccess || status == cudaErrorNoDevice) {
        found.reason = "the CUDA driver shows no GPU to this process";
    } else {
        found.reason = std::string("the CUDA driver, of version ") + std::to_string(driver / 1000) + '.' +
                       std::to_string(driver % 1000 / 10) + ", cannot be used: " + cudaGetErrorString(status);
    }
    return found;
}

const Availability& availability() {
    static const Availability found = look_for_devices();
    return found;
}

Properties ask_for_properties(int index) {
    cudaDeviceProp asked;
    check(cudaGetDeviceProperties(&asked, index), "describe the device");
    Properties result{};
    std::copy_n(asked.name, sizeof result.name - 1, result.name);
    result.major = asked.major;
    result.minor = asked.minor;
    result.processors = asked.multiProcessorCount;
    result.shared_per_processor = static_cast<std::int64_t>(asked.sharedMemPerMultiprocessor);
    result.shared_per_block = static_cast<std::int64_t>(asked.sharedMemPerBlockOptin);
    result.shared_reserved = static_cast<std::int64_t>(asked.reservedSharedMemPerBlock);
    result.memory_bytes = static_cast<std::int64_t>(asked.totalGlobalMem);
    return result;
}

// --- memory -------------------------------------------------------------------------------------------------------

// How much unused memory of a device stays with the process. Working memory of a call is far less, and so costs no
// mapping of pages once it has been there; what large copies took goes back when somebody next waits for the GPU.
constexpr std::uint64_t kKeptBytes = std::uint64_t{256} << 20;

void keep_memory(int device) {
    cudaMemPool_t pool = nullptr;
    check(cudaDeviceGetDefaultMemPool(&pool, device), "name the device's memory pool");
    std::uint64_t kept = 0;
    check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept), "ask what the memory pool keeps");
    if (kept >= kKeptBytes) return;  // other libraries use the same pool
    kept = kKeptBytes;
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept), "let the memory pool keep memory");
}

// What is known of each device, asked when it is first used.
struct KnownDevice {
    std::once_flag pool, properties;
    Properties values;
};

KnownDevice& known_device() {
    static const auto devices = std::make_unique<KnownDevice[]>(static_cast<std::size_t>(device_count()));
    return devices[static_cast<std::size_t>(current_device())];
}

// Memory that was allocated while its stream was captured belongs to the graph, where it is also released. Other memory
// cannot be released on a stream that is captured: a context, say, of a call before, or of another graph, whose Python
// object a captured call replaces. It waits for the end of the capture.
class GraphMemory {
  public:
    void add(void* memory, unsigned long long capture) {
        const std::lock_guard lock(mutex_);
        graphs_[memory] = capture;
    }
    void release(void* memory, Stream stream) {
        const std::lock_guard lock(mutex_);
        const unsigned long long now = capture_of(stream);
        const auto found = graphs_.find(memory);
        const unsigned long long of_memory = found == graphs_.end() ? 0 : found->second;
        if (found != graphs_.end()) graphs_.erase(found);
        if (now != 0 && now != of_memory) {
            waiting_.push_back({memory, stream, current_device()});
        } else {
            cudaFreeAsync(memory, stream_of(stream));
        }
    }
    // Of the current device.
    void release_waiting() {
        const std::lock_guard lock(mutex_);
        const int device = current_device();
        const auto end = std::remove_if(waiting_.begin(), waiting_.end(), [&](const Waiting& one) {
            return one.device == device && capture_of(one.stream) == 0 &&
                   cudaFreeAsync(one.memory, stream_of(one.stream)) == cudaSuccess;
        });
        waiting_.erase(end, waiting_.end());
    }

  private:
    struct Waiting {
        void* memory;
        Stream stream;
        int device;
    };
    std::mutex mutex_;
    std::unordered_map<void*, unsigned long long> graphs_;
    std::vector<Waiting> waiting_;
};

GraphMemory& graph_memory() {
    static GraphMemory* const memory = new GraphMemory;  // never destroyed: memory may be released at the very end
    return *memory;
}

// Bytes that travel as arguments of a launch, which CUDA copies when it is asked to launch: the host's memory may then
// change, and a graph has them forever.
struct StoreBytesKernel {
    static constexpr int kMost = 4000;  // of the 4096 bytes that every GPU takes for arguments
    char* to;
    int count;
    char bytes[kMost];

    BNFAST_DEVICE void operator()() const {
        for (int i = thread_index(); i < count; i += thread_count()) to[i] = bytes[i];
    }
};

// Up to here a copy to the device is made by such launches, and costs a few microseconds for each. Beyond, it is made
// as one and waited for.
constexpr std::size_t kMostStoredBytes = 16 * StoreBytesKernel::kMost;

// --- launches -----------------------------------------------------------------------------------------------------

// Once for each kernel and device: a block may have all shared memory, and a processor has as much of it, and as little
// first cache, as it can. So the plan counts blocks.
void prepare(const void* function) {
    static std::mutex mutex;
    static std::set<std::pair<const void*, int>> prepared;
    const std::pair key(function, current_device());
    const std::lock_guard lock(mutex);
    if (prepared.count(key) > 0) return;
    const auto set = [&](cudaFuncAttribute attribute, std::int64_t value) {
        check(cudaFuncSetAttribute(function, attribute, static_cast<int>(value)), "grant a kernel all shared memory");
    };
    set(cudaFuncAttributeMaxDynamicSharedMemorySize, properties().shared_per_block);
    set(cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    prepared.insert(key);
}

}  // namespace

OnDevice::OnDevice(int index) : previous_(current_device()) {
    if (previous_ != index) check(cudaSetDevice(index), "make the device the current one");
}

OnDevice::~OnDevice() {
    int index = previous_;
    if (cudaGetDevice(&index) != cudaSuccess || index != previous_) cudaSetDevice(previous_);
}

int device_count() { return availability().devices; }

const char* why_unavailable() { return device_count() > 0 ? nullptr : availability().reason.c_str(); }

const Properties& properties() {
    KnownDevice& device = known_device();
    std::call_once(device.properties, [&] { device.values = ask_for_properties(current_device()); });
    return device.values;
}

void* allocate(std::size_t bytes, Stream stream) {
    if (bytes == 0) return nullptr;
    std::call_once(known_device().pool, [] { keep_memory(current_device()); });
    graph_memory().release_waiting();
    void* memory = nullptr;
    const cudaError_t status = cudaMallocAsync(&memory, bytes, stream_of(stream));
    if (status == cudaErrorMemoryAllocation) throw std::bad_alloc();
    check(status, "allocate memory");
    if (const auto capture = capture_of(stream)) graph_memory().add(memory, capture);
    return memory;
}

void release(void* memory, Stream stream) noexcept {
    if (memory != nullptr) graph_memory().release(memory, stream);
}

void fill_with_zeros(void* memory, std::size_t bytes, Stream stream) {
    if (bytes == 0) return;
    check(cudaMemsetAsync(memory, 0, bytes, stream_of(stream)), "fill memory with zeros");
}

void copy_to_device(void* to, const void* from, std::size_t bytes, Stream stream) {
    if (bytes > kMostStoredBytes && !is_captured(stream)) {
        check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_of(stream)), "copy to the device");
        check(cudaStreamSynchronize(stream_of(stream)),
              "copy to the device");  // only pageable memory is copied at once
        return;
    }
    for (std::size_t done = 0; done < bytes; done += StoreBytesKernel::kMost) {
        StoreBytesKernel kernel;
        kernel.to = static_cast<char*>(to) + done;
        kernel.count = static_cast<int>(std::min(bytes - done, std::size_t{StoreBytesKernel::kMost}));
        std::copy_n(static_cast<const char*>(from) + done, kernel.count, kernel.bytes);
        launch(kernel, Grid{}, stream);
    }
}

void copy_to_host(void* to, const void* from, std::size_t bytes, Stream stream) {
    check_not_captured(stream, "copy to the host");
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_of(stream)), "copy to the host");
    check(cudaStreamSynchronize(stream_of(stream)), "copy to the host");
}

void synchronise(Stream stream) {
    check_not_captured(stream, "wait for a stream");
    check(cudaStreamSynchronize(stream_of(stream)), "wait for a stream");
}

void order(Stream earlier, Stream later) {
    if (earlier == later) return;
    if (capture_of(earlier) != capture_of(later)) {
        throw std::runtime_error(
            "CUDA could not let one stream wait for another: only one of them is captured into a graph");
    }
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "make an event");
    cudaError_t status = cudaEventRecord(event, stream_of(earlier));
    if (status == cudaSuccess) status = cudaStreamWaitEvent(stream_of(later), event, 0);
    cudaEventDestroy(event);  // when it has happened: CUDA keeps it till then
    check(status, "let one stream wait for another");
}

namespace detail {

void launch(const void* function, const Grid& grid, void* arguments, Stream stream) {
    if (grid.shared_bytes > 0) prepare(function);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
    config.blockDim = dim3(static_cast<unsigned>(grid.threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(grid.shared_bytes);
    config.stream = stream_of(stream);
    cudaLaunchAttribute together{};
    together.id = cudaLaunchAttributeCooperative;
    together.val.cooperative = 1;
    config.attrs = &together;
    config.numAttrs = grid.together ? 1 : 0;
    check(cudaLaunchKernelExC(&config, function, &arguments), "launch a kernel");
}

}  // namespace detail
}  // namespace bnfast::cuda
