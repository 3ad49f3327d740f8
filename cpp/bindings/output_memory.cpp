// Memory for large new arrays, kept for the next one when an array dies.
#include "output_memory.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <new>
#include <vector>

namespace bnfast::bindings {

// Functions of Python under names of our own, as its headers before 3.13 do not declare them as C.
int trace(unsigned domain, std::uintptr_t data, std::size_t size) __asm__("PyTraceMalloc_Track");
int untrace(unsigned domain, std::uintptr_t data) __asm__("PyTraceMalloc_Untrack");

namespace {

constexpr std::size_t kHugePage = 2 << 20;
constexpr std::size_t kSmallStep = 1 << 16;
constexpr unsigned kNumPyDomain = 389047;  // under which tracemalloc counts the memory of arrays

using Block = OutputBlock;

std::size_t rounded(std::size_t bytes) {
    const std::size_t step = bytes >= 2 * kHugePage ? kHugePage : kSmallStep;
    return (bytes + step - 1) / step * step;
}

// Pages at a multiple of the huge page size, which the kernel is asked to use.
Block map_block(std::size_t size) {
    const std::size_t slack = size % kHugePage == 0 ? kHugePage : 0;
    void* const mapped = mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw OutOfMemory(size);
    char* begin = static_cast<char*>(mapped);
    if (slack > 0) {
        const std::size_t skip = (kHugePage - reinterpret_cast<std::uintptr_t>(begin) % kHugePage) % kHugePage;
        if (skip > 0) munmap(begin, skip);
        if (skip < slack) munmap(begin + skip + size, slack - skip);
        begin += skip;
#ifdef MADV_HUGEPAGE
        madvise(begin, size, MADV_HUGEPAGE);
#endif
    }
    return {begin, size};
}

// Memory that no array uses. Threads that meet here do not wait: one of them works without the cache. So the lock does
// no harm in a forked process, either, which may have inherited it locked.
class Cache {
  public:
    Block take(std::size_t size) {
        if (const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock); lock) {
            // The block that was given back last is the likeliest to be in a cache.
            for (std::size_t i = kept_.size(); i-- > 0;) {
                const Block block = kept_[i];
                if (block.size < size || block.size > size + size / 4) continue;
                kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(i));
                bytes_ -= block.size;
                return block;
            }
        }
        return map_block(size);
    }
    void give_back(Block block) noexcept {
        if (const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock); lock && keep(block)) {
            shrink();
        } else {
            munmap(block.data, block.size);
        }
    }
    std::size_t limit() const { return limit_; }
    void set_limit(std::size_t bytes) {
        limit_ = bytes;
        if (const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock); lock) shrink();
    }

  private:
    bool keep(Block block) noexcept {
        try {
            kept_.push_back(block);
        } catch (const std::bad_alloc&) {
            return false;
        }
        bytes_ += block.size;
        return true;
    }
    void shrink() noexcept {
        std::size_t gone = 0;
        while (bytes_ > limit_) {
            bytes_ -= kept_[gone].size;
            munmap(kept_[gone].data, kept_[gone].size);
            ++gone;
        }
        kept_.erase(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(gone));
    }

    std::mutex mutex_;
    std::vector<Block> kept_;  // the oldest first
    std::size_t bytes_ = 0;
    std::atomic<std::size_t> limit_ = std::size_t{256} << 20;
};

Cache& cache() {
    static Cache* const instance = new Cache;  // never destroyed: arrays may outlive statics
    return *instance;
}

}  // namespace

OutputBlock take_block(std::size_t bytes) {
    if (bytes >= kLargeOutput) return cache().take(rounded(bytes));
    return {::operator new(bytes, std::align_val_t{kLineBytes}), bytes};
}

void give_back(OutputBlock block) noexcept {
    if (block.size >= kLargeOutput) {
        cache().give_back(block);
    } else {
        ::operator delete(block.data, std::align_val_t{kLineBytes});
    }
}

OutputMemory take_output_memory(std::size_t bytes, std::size_t phase) {
    auto* const block = new Block(take_block(bytes + phase));
    trace(kNumPyDomain, reinterpret_cast<std::uintptr_t>(block->data), bytes);
    py::capsule owner(block, [](void* p) {
        Block* const mine = static_cast<Block*>(p);
        untrace(kNumPyDomain, reinterpret_cast<std::uintptr_t>(mine->data));
        give_back(*mine);
        delete mine;
    });
    return {static_cast<char*>(block->data) + phase, std::move(owner)};
}

std::size_t cache_limit() { return cache().limit(); }
void set_cache_limit(std::size_t bytes) { cache().set_limit(bytes); }

}  // namespace bnfast::bindings
