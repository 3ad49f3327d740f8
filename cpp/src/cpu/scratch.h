// Working memory that is kept between calls: small calls then allocate nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace bnfast::cpu {

// A stack of chunks of memory, which one thread uses at a time.
class Arena {
  public:
    void* take(std::size_t bytes) {
        while (chunk < chunks_.size() && used + bytes > chunks_[chunk].size) {
            ++chunk;
            used = 0;
        }
        if (chunk == chunks_.size()) {
            constexpr std::size_t kSmallest = 1 << 16;
            const std::size_t size = bytes > kSmallest ? bytes : kSmallest;
            chunks_.push_back({std::unique_ptr<char[]>(new char[size + 64]), size});
            used = 0;
        }
        void* p = chunks_[chunk].begin() + used;
        used += bytes;
        return p;
    }
    // One large call does not hold its memory for ever.
    void release_large() {
        constexpr std::size_t kKept = 1 << 20;
        std::size_t total = 0, kept = 0;
        while (kept < chunks_.size() && total + chunks_[kept].size <= kKept) total += chunks_[kept++].size;
        chunks_.resize(kept);
    }
    // Where the stack ends.
    std::size_t chunk = 0, used = 0;

  private:
    struct Chunk {
        std::unique_ptr<char[]> data;
        std::size_t size;
        char* begin() const { return data.get() + (64 - reinterpret_cast<std::uintptr_t>(data.get()) % 64) % 64; }
    };
    std::vector<Chunk> chunks_;
};

// An arena that no thread uses, and its return.
Arena* borrow_arena();
void return_arena(Arena* arena);

// Memory from the arena of this thread; what a Scratch took is given back when it ends. The thread has an arena while
// it has a Scratch, which may be inside others.
class Scratch {
  public:
    Scratch() : arena_(outermost_ ? borrow_arena() : current) {
        current = arena_;
        chunk_ = arena_->chunk;
        used_ = arena_->used;
    }
    ~Scratch() {
        arena_->chunk = chunk_;
        arena_->used = used_;
        if (outermost_) {
            return_arena(arena_);
            current = nullptr;
        }
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    // Uninitialised memory for n objects, aligned to a cache line.
    template <class T>
    T* take(std::int64_t n) {
        return static_cast<T*>(arena_->take((static_cast<std::size_t>(n) * sizeof(T) + 63) / 64 * 64));
    }

  private:
    inline static thread_local Arena* current = nullptr;
    bool outermost_ = current == nullptr;
    Arena* arena_;
    std::size_t chunk_, used_;
};

}  // namespace bnfast::cpu
