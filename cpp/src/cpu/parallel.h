// parallel_for, and how many threads it may use. The implementation file is the only one that knows OpenMP.
#pragma once

#include <cstdint>

namespace bnfast::cpu {

// The CPUs that this process may use: affinity mask and cgroup quota.
int usable_cpus();

// What set_num_threads set, BNFAST_NUM_THREADS, or usable_cpus().
int num_threads();
void set_num_threads(int n);

const char* threading_name();

using TaskFunction = void (*)(void* context, std::int64_t task);
void run_tasks(std::int64_t tasks, int threads, TaskFunction function, void* context);

// Calls body(task) once for each task in [0, tasks), in order where there is one thread; threads take the next task
// when they are free. body must not throw. Serial inside another parallel region.
template <class Body>
void parallel_for(std::int64_t tasks, int threads, const Body& body) {
    if (tasks <= 1 || threads <= 1) {
        for (std::int64_t task = 0; task < tasks; ++task) body(task);
        return;
    }
    run_tasks(
        tasks, threads, [](void* context, std::int64_t task) { (*static_cast<const Body*>(context))(task); },
        const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace bnfast::cpu
