// Threads: OpenMP where the build found it, std::thread otherwise and in forked children.
#include "cpu/parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace bnfast::cpu {
namespace {

// cgroup v2 has "quota period" in cpu.max ("max" is no limit) of this process's group and of each group above it.
double cgroup_v2_cpus() {
    std::ifstream groups("/proc/self/cgroup");
    std::string line, path;
    while (std::getline(groups, line)) {
        if (line.rfind("0::", 0) == 0) path = line.substr(3);
    }
    double cpus = INFINITY;
    while (true) {
        std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
        double quota = 0, period = 0;
        if (file >> quota >> period && period > 0) cpus = std::min(cpus, quota / period);
        const std::size_t slash = path.rfind('/');
        if (slash == std::string::npos) break;
        path.resize(slash);
    }
    return cpus;
}

double cgroup_v1_cpus() {
    std::ifstream quota_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
        period_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    double quota = 0, period = 0;
    const bool limited = quota_file >> quota && period_file >> period && quota > 0 && period > 0;
    return limited ? quota / period : INFINITY;
}

int initial_threads() {
    if (const char* text = std::getenv("BNFAST_NUM_THREADS")) {
        char* end = nullptr;
        const long n = std::strtol(text, &end, 10);
        if (end != text && *end == '\0' && n >= 1 && n <= 1 << 16) return static_cast<int>(n);
    }
    return usable_cpus();
}

std::atomic<int>& thread_count() {
    static std::atomic<int> count{initial_threads()};
    return count;
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
                function(context, share.begin + (order_ == Order::kFirstToLast ? i : share.size - 1 - i));
                ++done;
            }
        }
        return done;
    }

  private:
    static constexpr int kMost = 64;  // more threads begin in each other's shares
    struct alignas(64) Share {        // a cache line each
        std::atomic<std::int64_t> taken{0};
        std::int64_t begin = 0, size = 0;
    };
    Order order_;
    int count_;
    Share shares_[kMost];
};

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
        static thread_local std::int64_t last_end = 0;
        static thread_local int last_size = 0;
        const bool awake = begin - last_end < kAwake && size <= last_size;
        last_end = end;
        last_size = size;
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
    static std::int64_t now() {
        const auto since = std::chrono::steady_clock::now().time_since_epoch();
        return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
    }

  private:
    std::atomic<int> halvings_{0};
    std::atomic<std::int64_t> small_until_{0}, pause_{0};
};

void run_on_std_threads(Shares& shares, int threads, TaskFunction function, void* context) {
    const auto work = [&](int thread) {
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
    cpu_set_t set;
    int cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                           : static_cast<int>(std::thread::hardware_concurrency());
    const double quota = std::min(cgroup_v2_cpus(), cgroup_v1_cpus());
    if (quota < cpus) cpus = static_cast<int>(std::ceil(quota));
    return std::max(cpus, 1);
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
    static const int cpus = usable_cpus();  // threads beyond them only take turns
    threads = static_cast<int>(std::min<std::int64_t>({threads, tasks, cpus}));
    const auto alone = [&] {
        for (std::int64_t i = 0; i < tasks; ++i) function(context, order == Order::kFirstToLast ? i : tasks - 1 - i);
    };
    if (threads <= 1 || inside_region) return alone();
#ifdef _OPENMP
    if (!forked.load(std::memory_order_relaxed)) {
        if (omp_in_parallel()) return alone();
        static Team team;
        const int size = team.size(threads);
        if (size <= 1) return alone();
        Shares shares(tasks, size, order);
        const std::int64_t begin = Team::now();
        std::int64_t done = begin, tasks_done = 0;
#pragma omp parallel num_threads(size)
        {
            const int thread = omp_get_thread_num();
            const std::int64_t count = shares.work(thread, function, context);
            if (thread == 0) {
                done = Team::now();
                tasks_done = count;
            }
        }
        team.report(size, tasks_done, begin, done, Team::now());
        return;
    }
#endif
    Shares shares(tasks, threads, order);
    run_on_std_threads(shares, threads, function, context);
}

}  // namespace bnfast::cpu
