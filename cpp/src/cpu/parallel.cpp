// Threads: OpenMP where the build found it, std::thread otherwise and in forked children.
#include "cpu/parallel.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu/arithmetic.h"
#include "cpu/limits.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace bnfast::cpu {
namespace {

// The CPUs that an OpenMP runtime knows of: where it binds threads (OMP_PROC_BIND), it has bound the one that loaded
// it, whose own affinity tells no more how many there are.
int known_cpus() {
#ifdef _OPENMP
    int in_places = 0;
    for (int place = 0; place < omp_get_num_places(); ++place) in_places += omp_get_place_num_procs(place);
    return in_places > 0 ? std::min(in_places, omp_get_num_procs()) : omp_get_num_procs();
#else
    return affinity_cpus();
#endif
}

std::atomic<int>& thread_count() {
    static std::atomic<int> count{threads_of_environment(usable_cpus())};
    return count;
}

// The threads of an OpenMP runtime wait for ever for the next region. Where this library was unloaded, and the runtime
// with it, they would wait in memory that is gone: the runtime has to stay.
void keep_runtime() {
#ifdef _OPENMP
    Dl_info runtime;
    if (dladdr(reinterpret_cast<void*>(&omp_get_num_procs), &runtime) != 0) {
        dlopen(runtime.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
    }
#endif
}

// When the library is loaded, before the program can bind the thread that makes the first call.
[[gnu::constructor]] void count_at_start() {
    thread_count();
    keep_runtime();
}

// A child of fork has libgomp's bookkeeping but not its threads, and would wait for them for ever.
std::atomic<bool> forked{false};
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked.store(true); });

thread_local bool inside_region = false;

// The tasks of a call in equal shares of neighbours, one a thread.
class Shares {
  public:
    Shares(std::int64_t tasks, int threads, Order order) : order_(order), count_(std::min(threads, kMost)) {
        for (int s = 0; s < count_; ++s) {
            shares_[s].begin = tasks * s / count_;
            shares_[s].size = tasks * (s + 1) / count_ - shares_[s].begin;
        }
    }
    // Takes tasks of the thread's own share, then of the others'; returns their number.
    std::int64_t work(int thread, TaskFunction function, void* context) {
        std::int64_t done = 0;
        for (int k = 0; k < count_; ++k) {
            Share& share = shares_[(thread + k) % count_];
            for (std::int64_t i = share.taken.fetch_add(1); i < share.size; i = share.taken.fetch_add(1)) {
                run(function, context, share.begin + (order_ == Order::kFirstToLast ? i : share.size - 1 - i));
                ++done;
            }
        }
        return done;
    }
    // To be called when all threads are done: what a task ended with, where it did not get its memory.
    void finish() const {
        if (failure_) std::rethrow_exception(failure_);
    }

  private:
    // An exception that left a thread would end the process.
    void run(TaskFunction function, void* context, std::int64_t task) noexcept {
        try {
            function(context, task);
        } catch (...) {
            if (!failed_.exchange(true)) failure_ = std::current_exception();
        }
    }
    std::atomic<bool> failed_{false};
    std::exception_ptr failure_;
    static constexpr int kMost = 64;  // more threads begin in each other's shares
    struct alignas(64) Share {        // a cache line each
        std::atomic<std::int64_t> taken{0};
        std::int64_t begin = 0, size = 0;
    };
    Order order_;
    int count_;
    Share shares_[kMost];
};

// What the calling thread's last region left: its team waits for the next one, and can be had again.
struct LastRegion {
    int size = 1;
    std::int64_t end = 0;         // nanoseconds
    std::int64_t next_trial = 0;  // when to ask for more threads again, where the system refused some
};
thread_local LastRegion last_region;

std::int64_t now() {
    const auto since = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

// How large a team the cores have room for. Where other programs use them too, a thread of the team may wait for a core
// for milliseconds, and the others wait for that thread, spinning. After a call that has seen this, teams are half as
// large for a while: longer each time, until one finds the cores free again. No result depends on it.
//
// A thread that has gone to sleep, or has yet to be made, is late, too: on some virtual machines by milliseconds. That
// says nothing about the cores, and smaller teams would only let it sleep on. So a region is judged only if it comes
// soon after one of the same calling thread, whose team it is, that was at least as large.
class Team {
  public:
    int size(int threads) const {
        if (halvings_.load(std::memory_order_relaxed) == 0) return threads;
        if (now() >= small_until_.load(std::memory_order_relaxed)) return threads;
        return std::max(1, threads >> halvings_.load(std::memory_order_relaxed));
    }

    // A region of `size` threads in which the calling one did `tasks` from `begin` to `done`, and then waited for the
    // others until `end`, in nanoseconds. They may be one task behind, not two.
    void report(int size, std::int64_t tasks, std::int64_t begin, std::int64_t done, std::int64_t end) {
        constexpr std::int64_t kSuspect = 400'000, kShortest = 16'000'000, kLongest = 500'000'000;
        // Unless they are told to wait otherwise, libgomp's threads spin for longer (measured: 3 to 10 ms).
        constexpr std::int64_t kAwake = 1'000'000;
        const bool awake = begin - last_region.end < kAwake && size <= last_region.size;
        last_region = {size, end, last_region.next_trial};
        if (!awake) return;
        const std::int64_t working = done - begin, waiting = end - done;
        const std::int64_t pause = pause_.load(std::memory_order_relaxed);
        const std::int64_t task = working / std::max<std::int64_t>(tasks, 1);
        if (waiting > kSuspect && waiting > working / 4 && waiting > 2 * task) {
            const bool again = end < small_until_.load(std::memory_order_relaxed);
            halvings_.store(again ? std::min(halvings_.load(std::memory_order_relaxed) + 1, 16) : 1);
            pause_.store(std::clamp(2 * pause, kShortest, kLongest), std::memory_order_relaxed);
            small_until_.store(end + pause_.load(std::memory_order_relaxed), std::memory_order_relaxed);
        } else if (pause != 0) {
            pause_.store(pause - pause / 16 - 1, std::memory_order_relaxed);
        }
    }

  private:
    std::atomic<int> halvings_{0};
    std::atomic<std::int64_t> small_until_{0}, pause_{0};
};

// The size of the team that the calling thread can have: its last one, and where that is smaller, what the system
// gives.
[[maybe_unused]] int size_to_be_had(int wanted, std::unique_lock<std::mutex>& lock) {
    constexpr std::int64_t kPause = 100'000'000;
    if (wanted <= last_region.size) return wanted;
    if (now() < last_region.next_trial) return last_region.size;
    lock.lock();
    const int size = last_region.size + threads_to_be_had(wanted - last_region.size);
    if (size < wanted) last_region.next_trial = now() + kPause;
    return size;
}

void run_on_std_threads(Shares& shares, int threads, TaskFunction function, void* context) {
    const auto work = [&](int thread) {
        const StandardArithmetic arithmetic;
        inside_region = true;
        shares.work(thread, function, context);
        inside_region = false;
    };
    std::vector<std::thread> team;
    try {
        for (int i = 1; i < threads; ++i) team.emplace_back(work, i);
    } catch (const std::exception&) {
        // No more threads to be had: those that started, and this one, do the work.
    }
    work(0);
    for (std::thread& thread : team) thread.join();
}

}  // namespace

int usable_cpus() {
    static const int cpus = within_quota(known_cpus());
    return cpus;
}

int num_threads() { return thread_count().load(std::memory_order_relaxed); }
void set_num_threads(int n) { thread_count().store(n, std::memory_order_relaxed); }

const char* threading_name() {
#ifdef _OPENMP
    return "OpenMP";
#else
    return "std::thread";
#endif
}

void run_tasks(std::int64_t tasks, int threads, Order order, TaskFunction function, void* context) {
    threads = static_cast<int>(std::min<std::int64_t>({threads, tasks, usable_cpus()}));  // more only take turns
    const auto alone = [&] {
        for (std::int64_t i = 0; i < tasks; ++i) function(context, order == Order::kFirstToLast ? i : tasks - 1 - i);
    };
    if (threads <= 1 || inside_region) return alone();
#ifdef _OPENMP
    if (!forked.load(std::memory_order_relaxed)) {
        if (omp_in_parallel()) return alone();
        static Team team;
        // Held until the runtime has started the threads that were to be had.
        static std::mutex starting;
        std::unique_lock<std::mutex> lock(starting, std::defer_lock);
        const int size = size_to_be_had(team.size(threads), lock);
        if (size <= 1) return alone();
        Shares shares(tasks, size, order);
        const std::int64_t begin = now();
        std::int64_t done = begin, tasks_done = 0;
        int granted = 1;
#pragma omp parallel num_threads(size)
        {
            const StandardArithmetic arithmetic;
            const int thread = omp_get_thread_num();
            if (thread == 0 && lock.owns_lock()) lock.unlock();
            const std::int64_t count = shares.work(thread, function, context);
            if (thread == 0) {
                done = now();
                tasks_done = count;
                granted = omp_get_num_threads();
            }
        }
        team.report(granted, tasks_done, begin, done, now());
        return shares.finish();
    }
#endif
    Shares shares(tasks, threads, order);
    run_on_std_threads(shares, threads, function, context);
    shares.finish();
}

}  // namespace bnfast::cpu
