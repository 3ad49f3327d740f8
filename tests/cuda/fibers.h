// The threads of a launch as fibers: stacks between which one thread of the CPU switches wherever a kernel waits.
//
// Which fiber goes on is drawn at random, so that a kernel that lacks a barrier computes something else. A launch that
// cannot end, or that asks what a GPU does not allow, ends the program with a message that says which thread did what.
#pragma once

#include <cstdint>

namespace bnfast::cuda {

struct Grid;

namespace host {

// What memory holds before it is written: a NaN in every floating-point type.
constexpr int kUnwritten = 0xFF;

// Runs all threads of a launch, and returns when the last has ended. Blocks run one after the other, unless they are
// together. The order of threads is that of the number in the environment variable BNFAST_CUDA_ORDER.
void run(void (*thread)(const void*), const void* kernel, const Grid& grid);

// What the running thread is told about itself.
struct Place {
    int thread = 0, threads = 0;
    std::int64_t block = 0, blocks = 0;
    char* shared = nullptr;
    std::int64_t shared_bytes = 0;
};
inline thread_local Place* here = nullptr;

void wait_for_block();
void wait_for_warp();
// Leaves a number for the other threads of the warp, and returns that of the thread whose number differs in `mask`.
std::uint64_t exchange(std::uint64_t number, int mask);
// Lets others go on. If all that still run do only this, the launch cannot end.
void pause();
// Says that a thread wrote what others may wait for.
void made_progress();

// Accesses to global memory end the program where a GPU would not do what is meant: at an address that is no multiple
// of their size or is in shared memory, and loads of what the launch has stored, which may be read from a cache that
// does not know of it.
void check_load(const char* primitive, const void* from, int bytes);
void check_store(const char* primitive, void* to, int bytes);

// The destination has what is copied only after the thread waits for it.
void begin_copy(void* to_shared, const void* from, int bytes);
void finish_copies();

}  // namespace host
}  // namespace bnfast::cuda
