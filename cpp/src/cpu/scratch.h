// Working memory that a thread keeps between calls: small calls then allocate nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace bnfast::cpu {

// A stack of chunks; what a Scratch took is given back when it ends.
class Scratch {
  public:
    Scratch() : arena_(arena()), chunk_(arena_.chunk), used_(arena_.used) {}
    ~Scratch() {
        arena_.chunk = chunk_;
        arena_.used = used_;
        if (chunk_ == 0 && used_ == 0) arena_.release_large();
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    // Uninitialised memory for n objects, aligned to a cache line.
    template <class T>
    T* take(std::int64_t n) {
        return static_cast<T*>(arena_.take((static_cast<std::size_t>(n) * sizeof(T) + 63) / 64 * 64));
    }

  private:
    struct Chunk {
        std::unique_ptr<char[]> data;
        std::size_t size;
        char* begin() const { return data.get() + (64 - reinterpret_cast<std::uintptr_t>(data.get()) % 64) % 64; }
    };
    struct Arena {
        std::vector<Chunk> chunks;
        std::size_t chunk = 0, used = 0;

        void* take(std::size_t bytes) {
            while (chunk < chunks.size() && used + bytes > chunks[chunk].size) {
                ++chunk;
                used = 0;
            }
            if (chunk == chunks.size()) {
                constexpr std::size_t kSmallest = 1 << 16;
                const std::size_t size = bytes > kSmallest ? bytes : kSmallest;
                chunks.push_back({std::unique_ptr<char[]>(new char[size + 64]), size});
                used = 0;
            }
            void* p = chunks[chunk].begin() + used;
            used += bytes;
            return p;
        }
        // One large call does not hold its memory for ever.
        void release_large() {
            constexpr std::size_t kKept = 1 << 20;
            std::size_t total = 0, kept = 0;
            while (kept < chunks.size() && total + chunks[kept].size <= kKept) total += chunks[kept++].size;
            chunks.resize(kept);
        }
    };
    static Arena& arena() {
        static thread_local Arena instance;
        return instance;
    }

    Arena& arena_;
    std::size_t chunk_, used_;
};

}  // namespace bnfast::cpu
