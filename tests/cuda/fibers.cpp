// The scheduler of fibers: who waits for whom, who goes on next, and what is said where nobody can.
#include "fibers.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <new>
#include <vector>

#include "cuda/runtime.h"
#include "stack.h"
#include "written.h"

namespace bnfast::cuda::host {
namespace {

enum State { kAtBarrier, kAtWarpBarrier, kAtShuffle, kPausing, kReady, kEnded };
constexpr const char* kStateNames[] = {"wait at barrier",     "wait at warp_barrier",
                                       "wait at shuffle_xor", "pause",
                                       "can go on",           "have ended"};

// Threads that wait for each other: fibers with successive numbers.
struct Group {
    int first = 0, size = 0;
    int arrived = 0;
};

struct Warp {
    Group barrier, shuffle;
    // Numbers that the threads exchange: those of a shuffle may still be read while the next one's are written.
    std::uint64_t numbers[2][kWarp];
};

struct Copy {
    char* to;
    const void* from;
    std::size_t bytes;
};

struct Fiber : Place {
    Fiber();
    Stack stack;
    State state = kEnded;
    Warp* warp = nullptr;
    Group* groups[3];  // by the state of those who wait
    int parity = 0;    // of the numbers of the warp's next shuffle
    std::vector<Copy> copies;
};

// Memory of an exact size, so that AddressSanitizer sees what is beyond.
class SharedMemory {
  public:
    explicit SharedMemory(std::int64_t bytes)
        : bytes_(static_cast<std::size_t>(bytes)), data_(static_cast<char*>(operator new(bytes_, kAlignment))) {}
    ~SharedMemory() {
        if (data_ != nullptr) operator delete(data_, kAlignment);
    }
    SharedMemory(SharedMemory&& other) noexcept : bytes_(other.bytes_), data_(other.data_) { other.data_ = nullptr; }
    SharedMemory& operator=(SharedMemory&&) = delete;
    char* clear() {
        std::memset(data_, kUnwritten, bytes_);
        return data_;
    }

  private:
    static constexpr std::align_val_t kAlignment{16};
    std::size_t bytes_;
    char* data_;
};

struct Block {
    explicit Block(std::int64_t shared_bytes) : shared(shared_bytes) {}
    Group barrier;
    Warp warps[kMostThreads / kWarp];
    SharedMemory shared;
};

std::uint64_t order_of_environment() {
    const char* const text = std::getenv("BNFAST_CUDA_ORDER");
    return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}

// The fibers of a thread of the CPU, and the launch that it is in.
class Scheduler {
  public:
    void run(void (*thread)(const void*), const void* kernel, const Grid& grid) {
        thread_ = thread;
        kernel_ = kernel;
        threads_ = grid.threads;
        static const std::uint64_t order = order_of_environment();
        random_ = order;
        written.clear();
        const std::int64_t at_once = grid.together ? grid.blocks : 1;
        all_ = static_cast<int>(at_once) * threads_;
        while (static_cast<int>(fibers_.size()) < all_) fibers_.emplace_back();
        std::vector<Block> blocks;
        blocks.reserve(static_cast<std::size_t>(at_once));
        for (std::int64_t k = 0; k < at_once; ++k) blocks.emplace_back(grid.shared_bytes);
        for (std::int64_t index = 0; index < grid.blocks;) {
            int first = 0;  // fiber of the block
            for (Block& block : blocks) {
                start(block, index++, first, grid);
                first += threads_;
            }
            live_ = all_;
            made_progress();
            run_next(caller_);
        }
        here = nullptr;
    }

    Fiber& running() { return *running_; }
    WrittenBytes written;  // by the launch

    // What a fiber does for ever: its thread of one launch after the other.
    void run_threads() {
        for (;;) {
            thread_(kernel_);
            if (!running_->copies.empty()) stop("ended without waiting for its copies");
            running_->state = kEnded;
            made_progress();
            if (--live_ == 0) {
                switch_stack(running_->stack.context, caller_);
            } else {
                run_next(running_->stack.context);
            }
        }
    }

    void wait(State state) {
        running_->state = state;
        Group& group = *running_->groups[state];
        if (++group.arrived == group.size) {
            group.arrived = 0;
            make_ready(group);
            made_progress();
        }
        run_next(running_->stack.context);
    }

    void pause() {
        running_->state = kPausing;
        if (++pauses_ > kPatience * live_) stop_for_ever("pauses, as all have done for long that could go on");
        ready_.push_back(running_);
        run_next(running_->stack.context);
    }

    void made_progress() { pauses_ = 0; }

    // Ends the program because of what the running thread did.
    [[noreturn]] void stop(const char* what) {
        std::fprintf(stderr, "Thread %d of block %lld %s.\n", running_->thread, static_cast<long long>(running_->block),
                     what);
        std::abort();
    }

  private:
    static constexpr int kPatience = 1000;  // pauses of each thread with nothing else between

    Fiber& fiber_at(int number) { return fibers_[static_cast<std::size_t>(number)]; }

    void start(Block& block, std::int64_t index, int first, const Grid& grid) {
        char* const shared = block.shared.clear();
        block.barrier = {first, threads_};
        for (int i = 0; i < threads_; ++i) {
            Warp& warp = block.warps[i / kWarp];
            if (i % kWarp == 0) {
                const Group group{first + i, threads_ - i < kWarp ? threads_ - i : kWarp};
                warp.barrier = warp.shuffle = group;
            }
            Fiber& fiber = fiber_at(first + i);
            static_cast<Place&>(fiber) = {i, threads_, index, grid.blocks, shared, grid.shared_bytes};
            fiber.warp = &warp;
            fiber.parity = 0;
            fiber.groups[kAtBarrier] = &block.barrier;
            fiber.groups[kAtWarpBarrier] = &warp.barrier;
            fiber.groups[kAtShuffle] = &warp.shuffle;
        }
        make_ready(block.barrier);
    }

    void make_ready(const Group& group) {
        for (int i = group.first; i < group.first + group.size; ++i) {
            Fiber& fiber = fiber_at(i);
            fiber.state = kReady;
            ready_.push_back(&fiber);
        }
    }

    // Leaves the running code, for one of the threads that can go on.
    void run_next(Context& from) {
        if (ready_.empty()) stop_for_ever("was the last that could go on");
        Fiber*& drawn = ready_[draw(ready_.size())];
        running_ = drawn;
        here = running_;
        drawn = ready_.back();
        ready_.pop_back();
        running_->state = kReady;
        if (&from != &running_->stack.context) switch_stack(from, running_->stack.context);
    }

    // Ends the program because no thread can ever go on, and says what they all wait for.
    [[noreturn]] void stop_for_ever(const char* what) {
        for (int first = 0; first < all_; first += threads_) report_block(first);
        stop(what);
    }

    // A number below `count`, by a linear congruential generator (Knuth, The Art of Computer Programming 2, 3.3.4).
    std::size_t draw(std::size_t count) {
        random_ = random_ * 6364136223846793005U + 1442695040888963407U;
        return static_cast<std::size_t>((random_ >> 32) * count >> 32);
    }

    void report_block(int first) {
        int counts[kEnded + 1] = {}, examples[kEnded + 1] = {};
        for (int i = 0; i < threads_; ++i) {
            const State state = fiber_at(first + i).state;
            if (counts[state]++ == 0) examples[state] = i;
        }
        if (counts[kEnded] == threads_) return;
        std::fprintf(stderr, "Block %lld:\n", static_cast<long long>(fiber_at(first).block));
        for (int state = 0; state <= kEnded; ++state) {
            if (counts[state] == 0) continue;
            std::fprintf(stderr, "  %d of its threads %s, such as %d\n", counts[state], kStateNames[state],
                         examples[state]);
        }
    }

    void (*thread_)(const void*) = nullptr;
    const void* kernel_ = nullptr;
    int threads_ = 0;  // of a block
    int all_ = 0;      // threads that are there at once
    int live_ = 0;     // those that have not ended
    int pauses_ = 0;   // since anything else happened
    std::uint64_t random_ = 0;
    Context caller_;
    Fiber* running_ = nullptr;
    std::deque<Fiber> fibers_;
    std::vector<Fiber*> ready_;
};

thread_local Scheduler scheduler;

Fiber::Fiber() : stack([] { scheduler.run_threads(); }) {}

[[noreturn]] void refuse(const char* primitive, const void* address, int bytes, const char* why) {
    char text[200];
    std::snprintf(text, sizeof text, "called %s for %d bytes at %p: %s", primitive, bytes, address, why);
    scheduler.stop(text);
}

bool in_shared_memory(const void* address) {
    return address >= here->shared && address < here->shared + here->shared_bytes;
}

void check_alignment(const char* primitive, const void* address, int bytes) {
    if (reinterpret_cast<std::uintptr_t>(address) % static_cast<unsigned>(bytes) == 0) return;
    refuse(primitive, address, bytes, "the address is no multiple of the size");
}

void check_global(const char* primitive, const void* address, int bytes) {
    check_alignment(primitive, address, bytes);
    if (in_shared_memory(address)) refuse(primitive, address, bytes, "the address is in shared memory");
}

}  // namespace

void run(void (*thread)(const void*), const void* kernel, const Grid& grid) { scheduler.run(thread, kernel, grid); }

void wait_for_block() { scheduler.wait(kAtBarrier); }
void wait_for_warp() { scheduler.wait(kAtWarpBarrier); }
void pause() { scheduler.pause(); }
void made_progress() { scheduler.made_progress(); }

std::uint64_t exchange(std::uint64_t number, int mask) {
    Fiber& fiber = scheduler.running();
    const int lane = fiber.thread % kWarp, other = lane ^ mask;
    if (other < 0 || other >= fiber.warp->shuffle.size) scheduler.stop("asks for the number of no thread of its warp");
    std::uint64_t* const numbers = fiber.warp->numbers[fiber.parity];
    fiber.parity ^= 1;
    numbers[lane] = number;
    scheduler.wait(kAtShuffle);
    return numbers[other];
}

void check_load(const char* primitive, const void* from, int bytes) {
    check_global(primitive, from, bytes);
    if (scheduler.written.has(from, bytes)) refuse(primitive, from, bytes, "the launch has stored there before");
}
void check_store(const char* primitive, void* to, int bytes) {
    check_global(primitive, to, bytes);
    scheduler.written.add(to, bytes);
}

void begin_copy(void* to_shared, const void* from, int bytes) {
    constexpr const char* kName = "copy_to_shared";
    check_load(kName, from, bytes);
    check_alignment(kName, to_shared, bytes);
    char* const to = static_cast<char*>(to_shared);
    if (!in_shared_memory(to) || !in_shared_memory(to + bytes - 1)) {
        refuse(kName, to, bytes, "the destination is not in shared memory");
    }
    std::memset(to, kUnwritten, static_cast<std::size_t>(bytes));
    scheduler.running().copies.push_back({to, from, static_cast<std::size_t>(bytes)});
}

void finish_copies() {
    std::vector<Copy>& copies = scheduler.running().copies;
    for (const Copy& copy : copies) std::memcpy(copy.to, copy.from, copy.bytes);
    copies.clear();
}

}  // namespace bnfast::cuda::host
