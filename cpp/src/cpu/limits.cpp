// What limits the number of threads: CPUs, quotas, the environment, and how many threads the system gives.
#include "cpu/limits.h"

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

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

// The number that a variable begins with ("4,2" of OMP_NUM_THREADS are levels of nesting); 0 where there is none.
int number_in(const char* variable) {
    constexpr long kMost = 1 << 16;
    const char* const text = std::getenv(variable);
    if (text == nullptr) return 0;
    char* end = nullptr;
    const long n = std::strtol(text, &end, 10);
    while (*end == ' ') ++end;
    return end != text && (*end == '\0' || *end == ',') && n >= 1 && n <= kMost ? static_cast<int>(n) : 0;
}

// Linux has a number for each thread. Others are not known to refuse threads, nor to count those that are gone.
#if defined(__linux__)
long thread_number() { return syscall(SYS_gettid); }
bool is_counted(long thread) { return syscall(SYS_tgkill, getpid(), thread, 0) == 0; }
#else
long thread_number() { return 0; }
bool is_counted(long) { return false; }
#endif

// Threads that all live at once, until the object ends.
class Trial {
  public:
    explicit Trial(int wanted) : ids_(static_cast<std::size_t>(wanted)) {
        threads_.reserve(static_cast<std::size_t>(wanted));
        living_.lock();
        try {
            while (started() < wanted) threads_.emplace_back(&Trial::wait, this);
        } catch (const std::exception&) {
            // No more are to be had.
        }
    }
    int started() const { return static_cast<int>(threads_.size()); }
    ~Trial() {
        living_.unlock();
        for (std::thread& thread : threads_) thread.join();
        // join returns before the system counts a thread as gone.
        constexpr int kTries = 1000;
        for (std::size_t t = 0; t < next_; ++t) {
            for (int i = 0; i < kTries && is_counted(ids_[t]); ++i) {
                std::this_thread::sleep_for(std::chrono::microseconds(20));
            }
        }
    }
    Trial(const Trial&) = delete;
    Trial& operator=(const Trial&) = delete;

  private:
    void wait() {
        const std::scoped_lock after(living_);
        ids_[next_++] = thread_number();
    }
    std::mutex living_;      // held while the threads are to live
    std::vector<long> ids_;  // the first next_
    std::size_t next_ = 0;
    std::vector<std::thread> threads_;
};

}  // namespace

int affinity_cpus() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return static_cast<int>(std::thread::hardware_concurrency());
}

int within_quota(int cpus) {
    const double quota = std::min(cgroup_v2_cpus(), cgroup_v1_cpus());
    if (quota < cpus) cpus = static_cast<int>(std::ceil(quota));
    return std::max(cpus, 1);
}

int threads_of_environment(int cpus) {
    if (const int n = number_in("BNFAST_NUM_THREADS")) return n;
    for (const char* const variable : {"OMP_NUM_THREADS", "OMP_THREAD_LIMIT"}) {
        if (const int n = number_in(variable)) cpus = std::min(cpus, n);
    }
    return cpus;
}

int threads_to_be_had(int wanted) {
    constexpr int kSpare = 1;  // for what else may start threads meanwhile
    return std::max(Trial(wanted + kSpare).started() - kSpare, 0);
}

}  // namespace bnfast::cpu
