// cuda/runtime.h where there is no GPU: a tiny chip whose memory is the host's, and where nothing is ever pending.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "cuda/runtime.h"
#include "fibers.h"

namespace bnfast::cuda {
namespace {

constexpr std::align_val_t kAlignment{256};  // cudaMalloc's
constexpr int kMostBlocksOfProcessor = 16;
constexpr int kMostThreadsOfProcessor = kLeastBlocks * kMostThreads;

// So small that arrays of a few kilobytes already take teams of blocks and several tiles. For experiments with other
// sizes, the environment variable BNFAST_CUDA_CHIP has three: processors, shared bytes of a processor, of a block.
Properties chip() {
    Properties result = {"host", 9, 0, 4, 24 << 10, 12 << 10, 1 << 10, std::int64_t{1} << 30};
    if (const char* const text = std::getenv("BNFAST_CUDA_CHIP")) {
        long long per_processor = 0, per_block = 0;
        if (std::sscanf(text, "%d,%lld,%lld", &result.processors, &per_processor, &per_block) != 3) {
            throw std::runtime_error("BNFAST_CUDA_CHIP: got " + std::string(text) + ", expected three numbers");
        }
        result.shared_per_processor = per_processor;
        result.shared_per_block = per_block;
    }
    return result;
}

}  // namespace

OnDevice::OnDevice(int index) : previous_(0) {
    if (index != 0) throw std::runtime_error("invalid device ordinal");
}
OnDevice::~OnDevice() = default;

int device_count() { return 1; }
const char* why_unavailable() { return nullptr; }

const Properties& properties() {
    static const Properties result = chip();
    return result;
}

void* allocate(std::size_t bytes, Stream) {
    void* const memory = operator new(bytes, kAlignment);
    std::memset(memory, host::kUnwritten, bytes);
    return memory;
}
void release(void* memory, Stream) noexcept { operator delete(memory, kAlignment); }
void fill_with_zeros(void* memory, std::size_t bytes, Stream) {
    if (bytes > 0) std::memset(memory, 0, bytes);
}
void copy_to_device(void* to, const void* from, std::size_t bytes, Stream) {
    if (bytes > 0) std::memcpy(to, from, bytes);
}
void copy_to_host(void* to, const void* from, std::size_t bytes, Stream stream) {
    copy_to_device(to, from, bytes, stream);
}
void synchronise(Stream) {}
void order(Stream, Stream) {}

namespace {

// How many blocks a processor holds at once.
int resident_blocks(int threads, std::int64_t shared_bytes) {
    const std::int64_t fit = properties().shared_per_processor / (shared_bytes + properties().shared_reserved);
    const std::int64_t most = std::min(kMostBlocksOfProcessor, kMostThreadsOfProcessor / threads);
    return static_cast<int>(std::min(fit, most));
}

}  // namespace

namespace detail {

// Refuses what CUDA refuses, in its words.
void launch_on_host(void (*thread)(const void*), const void* kernel, const Grid& grid) {
    constexpr std::int64_t kMostBlocks = (std::int64_t{1} << 31) - 1;
    if (grid.threads < 1 || grid.threads > kMostThreads || grid.blocks < 1 || grid.blocks > kMostBlocks) {
        throw std::runtime_error("invalid configuration argument");
    }
    if (grid.shared_bytes < 0 || grid.shared_bytes > properties().shared_per_block) {
        throw std::runtime_error("invalid argument");
    }
    const std::int64_t resident = resident_blocks(grid.threads, grid.shared_bytes);
    if (grid.together && grid.blocks > resident * properties().processors) {
        throw std::runtime_error("too many blocks in cooperative launch");
    }
    host::run(thread, kernel, grid);
}

}  // namespace detail
}  // namespace bnfast::cuda
