// What limits the number of threads: CPUs, quotas, the environment, and how many threads the system gives.
#pragma once

namespace bnfast::cpu {

// The CPUs in the calling thread's affinity mask; all of them where threads have none, as on macOS.
int affinity_cpus();

// The CPUs that the process's cgroups pay for, rounded up; `cpus` where that is more.
int within_quota(int cpus);

// The threads that the environment asks for: BNFAST_NUM_THREADS, or as many of `cpus` as OpenMP's variables allow.
int threads_of_environment(int cpus);

// How many of `wanted` threads, 1 or more, the system would start now. It may refuse (RLIMIT_NPROC, a cgroup's
// pids.max, memory), and an OpenMP runtime then ends the process; so they are started, and ended again, before it is
// asked.
int threads_to_be_had(int wanted);

}  // namespace bnfast::cpu
