// The bytes that a launch has stored to global memory: what load_global() must not read any more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bnfast::cuda::host {

// A hash table of runs of 16 bytes, as no access is wider, with a bit for each byte.
class WrittenBytes {
  public:
    void clear() {
        ++launch_;  // which makes all entries free
        used_ = 0;
    }

    // An access begins at a multiple of its size, a power of two: it is within one run.
    void add(const void* address, int bytes) {
        Entry& entry = find(run_of(address));
        if (entry.launch != launch_) {
            entry = {run_of(address), launch_, 0};
            ++used_;
        }
        entry.bytes |= mask_of(address, bytes);
        if (2 * used_ > entries_.size()) grow();
    }
    bool has(const void* address, int bytes) {
        const Entry& entry = find(run_of(address));
        return entry.launch == launch_ && (entry.bytes & mask_of(address, bytes)) != 0;
    }

  private:
    static constexpr std::uintptr_t kRun = 16;
    struct Entry {
        std::uintptr_t run = 0;
        std::uint64_t launch = 0;  // of another launch: free
        std::uint32_t bytes = 0;
    };

    static std::uintptr_t run_of(const void* address) { return reinterpret_cast<std::uintptr_t>(address) / kRun; }
    static std::uint32_t mask_of(const void* address, int bytes) {
        return ((1U << bytes) - 1) << (reinterpret_cast<std::uintptr_t>(address) % kRun);
    }

    // Where a run is, or would be.
    Entry& find(std::uintptr_t run) {
        const std::size_t last = entries_.size() - 1;
        std::size_t i = run * 0x9E3779B97F4A7C15U >> 20 & last;  // Fibonacci hashing
        while (entries_[i].launch == launch_ && entries_[i].run != run) i = (i + 1) & last;
        return entries_[i];
    }
    void grow() {
        std::vector<Entry> old(2 * entries_.size());
        old.swap(entries_);
        for (const Entry& entry : old) {
            if (entry.launch == launch_) find(entry.run) = entry;
        }
    }

    std::vector<Entry> entries_ = std::vector<Entry>(1 << 12);
    std::size_t used_ = 0;
    std::uint64_t launch_ = 1;
};

}  // namespace bnfast::cuda::host
