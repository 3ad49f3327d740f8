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

// The order in which a thread takes the tasks of its share.
enum class Order { kFirstToLast, kLastToFirst };

using TaskFunction = void (*)(void* context, std::int64_t task);
void run_tasks(std::int64_t tasks, int threads, Order order, TaskFunction function, void* context);

// Calls body(task) once for each task in [0, tasks). Each thread has a share of neighbouring tasks, the same one in
// every call with as many tasks a thread, so that a second sweep finds in a core's cache what the first one left there;
// a thread that is done helps the others. An exception of body is rethrown when all are done. Serial inside another
// parallel region.
template <class Body>
void parallel_for(std::int64_t tasks, int threads, Order order, const Body& body) {
    if (tasks <= 1 || threads <= 1) {
        for (std::int64_t i = 0; i < tasks; ++i) body(order == Order::kFirstToLast ? i : tasks - 1 - i);
        return;
    }
    run_tasks(
        tasks, threads, order, [](void* context, std::int64_t task) { (*static_cast<const Body*>(context))(task); },
        const_cast<void*>(static_cast<const void*>(&body)));
}
template <class Body>
void parallel_for(std::int64_t tasks, int threads, const Body& body) {
    parallel_for(tasks, threads, Order::kFirstToLast, body);
}

}  // namespace bnfast::cpu
