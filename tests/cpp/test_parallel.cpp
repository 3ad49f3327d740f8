// Threads: every task runs once, what a task throws reaches the caller, and children of fork have threads of their own.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

#include "cpu/parallel.h"

namespace {

using namespace bnfast::cpu;

constexpr std::int64_t kTasks = 1000;
constexpr int kThreads[] = {1, 2, 5, 200};

void require(bool condition, const char* what) {
    if (condition) return;
    std::printf("FAILED: %s\n", what);
    std::exit(1);
}

void check_that_every_task_runs_once() {
    for (const Order order : {Order::kFirstToLast, Order::kLastToFirst}) {
        for (const int threads : kThreads) {
            std::vector<std::atomic<int>> runs(kTasks);
            parallel_for(kTasks, threads, order, [&](std::int64_t task) {
                parallel_for(3, threads, [&](std::int64_t) { runs[static_cast<std::size_t>(task)].fetch_add(1); });
            });
            for (const std::atomic<int>& count : runs) require(count == 3, "every task runs once, nested ones too");
        }
    }
}

void check_that_exceptions_reach_the_caller() {
    for (const int threads : kThreads) {
        bool caught = false;
        try {
            parallel_for(kTasks, threads, [](std::int64_t task) {
                if (task % 7 == 3) throw std::bad_alloc();
            });
        } catch (const std::bad_alloc&) {
            caught = true;
        }
        require(caught, "an exception of a task reaches the caller");
    }
}

void check_children_of_fork() {
    const pid_t child = fork();
    require(child >= 0, "fork");
    if (child == 0) {
        alarm(60);  // ends a child that waits for threads it does not have
        check_that_every_task_runs_once();
        check_that_exceptions_reach_the_caller();
        std::exit(0);
    }
    int status = 0;
    require(waitpid(child, &status, 0) == child && status == 0, "a child of fork runs tasks");
}

}  // namespace

// `test_parallel fork` tests children of fork, too.
int main(int count, char**) {
    check_that_every_task_runs_once();
    check_that_exceptions_reach_the_caller();
    if (count > 1) {
        check_children_of_fork();
        check_that_every_task_runs_once();  // the parent's threads are still there
    }
}
