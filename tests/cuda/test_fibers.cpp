// The host implementation of CUDA's primitives: kernels that use them rightly compute what they should, and those that
// could fail on a GPU fail here.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cuda/device.h"
#include "cuda/runtime.h"

namespace bnfast::cuda {  // not `using`: the C library has a pause(), too
namespace {

void require(bool condition, const std::string& what) {
    if (condition) return;
    std::fprintf(stderr, "FAILED: %s\n", what.c_str());
    std::_Exit(1);  // ends a thread of a kernel, too, where exit() would take its stack away
}

template <class T>
DeviceMemory<T> on_device(const std::vector<T>& numbers) {
    DeviceMemory<T> result(static_cast<std::int64_t>(numbers.size()), nullptr);
    copy_to_device(result.get(), numbers.data(), numbers.size() * sizeof(T), nullptr);
    return result;
}
template <class T>
std::vector<T> on_host(const DeviceMemory<T>& memory, std::size_t count) {
    std::vector<T> result(count);
    copy_to_host(result.data(), memory.get(), count * sizeof(T), nullptr);
    return result;
}

std::vector<float> count_up(std::size_t count) {
    std::vector<float> result(count);
    for (std::size_t i = 0; i < count; ++i) result[i] = static_cast<float>(i);
    return result;
}

// The sum of a thread's numbers over its block, for every thread. Without `guarded`, a barrier is missing.
double sum_of_block(double sum, bool guarded = true) {
    double* const sums = reinterpret_cast<double*>(shared_memory());
    for (int mask = 1; mask < kWarp; mask *= 2) sum += shuffle_xor(sum, mask);
    if (thread_index() % kWarp == 0) sums[thread_index() / kWarp] = sum;
    if (guarded) barrier();
    sum = 0;
    for (int warp = 0; warp < thread_count() / kWarp; ++warp) sum += sums[warp];
    barrier();  // before the next sum is written
    return sum;
}

// Each block sums its part of x, four numbers an access.
struct SumBlocks {
    const float* x;
    double* sums;
    std::int64_t packs_of_block;
    bool guarded;

    void operator()() const {
        using Four = Pack<float, 4>;
        double sum = 0;
        for (std::int64_t i = thread_index(); i < packs_of_block; i += thread_count()) {
            const Four four = load_global<Four>(x + 4 * (block_index() * packs_of_block + i));
            for (const float number : four.element) sum += number;
        }
        sum = sum_of_block(sum, guarded);
        if (thread_index() == 0) store_global(sums + block_index(), Pack<double, 1>{sum});
    }
};

bool sums_are_right(int threads, std::int64_t blocks, bool guarded) {
    constexpr std::int64_t kPacks = 100;
    const std::vector<float> x = count_up(static_cast<std::size_t>(blocks * kPacks * 4));
    const DeviceMemory<float> device_x = on_device(x);
    const DeviceMemory<double> device_sums(blocks, nullptr);
    const std::int64_t shared_bytes = threads / kWarp * std::int64_t{sizeof(double)};
    launch(SumBlocks{device_x.get(), device_sums.get(), kPacks, guarded}, Grid{blocks, threads, shared_bytes}, nullptr);
    const std::vector<double> sums = on_host(device_sums, static_cast<std::size_t>(blocks));
    for (std::size_t block = 0; block < sums.size(); ++block) {
        double sum = 0;
        for (std::size_t i = 0; i < 4 * kPacks; ++i) sum += x[block * 4 * kPacks + i];
        if (sums[block] != sum) return false;
    }
    return true;
}

void check_sums() {
    for (const int threads : {32, 96, 256}) {
        for (const std::int64_t blocks : {1, 7}) require(sums_are_right(threads, blocks, true), "sums of blocks");
    }
}

void check_that_a_missing_barrier_shows() { require(!sums_are_right(256, 7, false), "a missing barrier shows"); }

void check_several_launching_threads() {
    bool right[4] = {};
    std::vector<std::thread> threads;
    for (bool& result : right) {
        threads.emplace_back([&result] {
            result = true;
            for (int k = 0; k < 20; ++k) result = result && sums_are_right(128, 5, true);
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (const bool result : right) require(result, "several threads launch at once");
}

// Blocks that wait for each other, several times: each adds up what all have written.
struct AddTogether {
    std::uint32_t* counters;  // zeros, one for each round
    double* numbers;          // one for each block and parity of the round
    double* sums;             // one for each block
    int rounds;

    void operator()() const {
        double sum = static_cast<double>(block_index());
        for (int round = 0; round < rounds; ++round) {
            double* const exchanged = numbers + round % 2 * block_count();
            if (thread_index() == 0) {
                exchanged[block_index()] = sum;
                fence();
                atomic_add(counters + round, 1);
                while (load_acquire(counters + round) < static_cast<std::uint32_t>(block_count())) pause();
            }
            barrier();
            sum = 0;
            for (std::int64_t block = 0; block < block_count(); ++block)
                sum += load_shared_by_blocks(exchanged + block);
        }
        if (thread_index() == thread_count() - 1) sums[block_index()] = sum;
    }
};

void add_together(bool together, std::int64_t blocks) {
    constexpr int kRounds = 5;
    const DeviceMemory<std::uint32_t> counters(kRounds, nullptr);
    fill_with_zeros(counters.get(), kRounds * sizeof(std::uint32_t), nullptr);
    const DeviceMemory<double> numbers(2 * blocks, nullptr), sums(blocks, nullptr);
    Grid grid{blocks, 64};
    grid.together = together;
    launch(AddTogether{counters.get(), numbers.get(), sums.get(), kRounds}, grid, nullptr);
    double expected = static_cast<double>(blocks * (blocks - 1) / 2);
    for (int round = 1; round < kRounds; ++round) expected *= static_cast<double>(blocks);
    for (const double sum : on_host(sums, static_cast<std::size_t>(blocks))) {
        require(sum == expected, "blocks that run together exchange numbers");
    }
}

void check_blocks_that_run_together() {
    for (const std::int64_t blocks : {1, 2, 16}) add_together(true, blocks);
}

// A kernel made of a function.
template <class Function>
struct Run {
    Function function;
    void operator()() const { function(); }
};
// Memory that a kernel has not written holds NaNs, whatever a block before it left there.
void check_unwritten_memory() {
    const DeviceMemory<float> found(2, nullptr), unwritten(1, nullptr);
    require(unwritten.get()[0] != unwritten.get()[0], "new memory is not zero");
    const auto look = [numbers = found.get()] {
        float* const shared = reinterpret_cast<float*>(shared_memory());
        numbers[block_index()] = *shared;
        *shared = 1;
    };
    launch(Run<decltype(look)>{look}, Grid{2, 1, sizeof(float)}, nullptr);
    for (const float number : on_host(found, 2)) require(number != number, "shared memory is not zero");
}

// What one launch leaves behind does not show in the next: whether warps were full, and what was stored.
void check_that_launches_are_apart() {
    constexpr std::int64_t kNumbers = 5000;
    const DeviceMemory<Pack<float, 4>> memory(kNumbers, nullptr);
    for (const int threads : {40, 64, 256}) {
        const int mask = threads == 40 ? 1 : 8;
        const auto exchange = [numbers = memory.get(), mask] {
            const float number = static_cast<float>(shuffle_xor(thread_index(), mask));
            for (std::int64_t i = thread_index(); i < kNumbers; i += thread_count()) {
                store_global(numbers + i, Pack<float, 4>{{number}});
            }
        };
        launch(Run<decltype(exchange)>{exchange}, Grid{1, threads}, nullptr);
        const auto compare = [numbers = memory.get(), threads, mask] {
            const float number = load_global<Pack<float, 4>>(numbers + thread_index()).element[0];
            require(number == static_cast<float>((thread_index() % threads ^ mask)), "each launch begins anew");
        };
        launch(Run<decltype(compare)>{compare}, Grid{1, 256}, nullptr);
    }
}

// Each thread copies its number to shared memory, and reads it before and after it waits.
struct CopyNumbers {
    const float* x;
    float* early;
    float* late;

    void operator()() const {
        using Four = Pack<float, 4>;
        Four* const mine = reinterpret_cast<Four*>(shared_memory()) + thread_index();
        copy_to_shared<Four>(mine, x + 4 * thread_index());
        store_global(early + 4 * thread_index(), *mine);
        wait_for_copies();
        warp_barrier();
        store_global(late + 4 * thread_index(), reinterpret_cast<Four*>(shared_memory())[thread_index() ^ 1]);
    }
};

void check_copies() {
    constexpr std::size_t kNumbers = 4 * kWarp;
    const DeviceMemory<float> x = on_device(count_up(kNumbers)), early(kNumbers, nullptr), late(kNumbers, nullptr);
    launch(CopyNumbers{x.get(), early.get(), late.get()}, Grid{1, kWarp, kNumbers * sizeof(float)}, nullptr);
    const std::vector<float> before = on_host(early, kNumbers), after = on_host(late, kNumbers);
    for (std::size_t i = 0; i < kNumbers; ++i) {
        require(before[i] != before[i], "a copy that was not waited for is a NaN");
        require(after[i] == static_cast<float>(i ^ 4), "a copy that was waited for is there");
    }
}

// --- what must fail ---------------------------------------------------------------------------------------------

template <class Function>
void check_refused(const char* expected, Function call) {
    std::string got = "no error";
    try {
        call();
    } catch (const std::runtime_error& error) {
        got = error.what();
    }
    require(got == expected, std::string(expected) + ", but got: " + got);
}

struct Nothing {
    void operator()() const {}
};

void check_refused_launches() {
    require(properties().processors == 4, "the chip is small");
    const auto launch_grid = [](Grid grid) { return [grid] { launch(Nothing{}, grid, nullptr); }; };
    check_refused("too many blocks in cooperative launch", launch_grid({33, 64, 0, true}));
    check_refused("too many blocks in cooperative launch", launch_grid({9, 64, 11 << 10, true}));
    check_refused("invalid configuration argument", launch_grid({0, 64}));
    check_refused("invalid configuration argument", launch_grid({1, kMostThreads + 1}));
    check_refused("invalid argument", launch_grid({1, 64, (12 << 10) + 1}));
    check_refused("invalid device ordinal", [] { OnDevice other(1); });
}

// Runs a function in a child process, which it must end with a message that has the given words.
template <class Function>
void check_fatal(const char* expected, Function function) {
    int ends[2];
    require(pipe(ends) == 0, "pipe");
    const pid_t child = fork();
    require(child >= 0, "fork");
    if (child == 0) {
        alarm(60);
        dup2(ends[1], STDERR_FILENO);
        function();
        std::_Exit(0);
    }
    close(ends[1]);
    std::string message;
    char part[512];
    for (ssize_t count = read(ends[0], part, sizeof part); count > 0; count = read(ends[0], part, sizeof part)) {
        message.append(part, static_cast<std::size_t>(count));
    }
    close(ends[0]);
    int status = 0;
    require(waitpid(child, &status, 0) == child && status != 0, std::string("must be fatal: ") + expected);
    require(message.find(expected) != std::string::npos, std::string(expected) + ", but got: " + message);
}

template <class Function>
void check_mistake(const char* expected, Function function, const Grid& grid = {1, 64, 64}) {
    check_fatal(expected, [&] { launch(Run<Function>{function}, grid, nullptr); });
}

void check_mistakes_of_waiting() {
    check_mistake("63 of its threads wait at barrier, such as 0\n  1 of its threads have ended, such as 5", [] {
        if (thread_index() != 5) barrier();
    });
    check_mistake("1 of its threads wait at warp_barrier, such as 3\n  31 of its threads wait at shuffle_xor", [] {
        if (thread_index() == 3) {
            warp_barrier();
        } else {
            shuffle_xor(1.0F, 1);
        }
    });
    check_mistake("asks for the number of no thread", [] { shuffle_xor(1, 16); }, {1, 40});
    check_mistake("ended without waiting for its copies", [] {
        static const float number = 1;
        copy_to_shared<float>(shared_memory(), &number);
    });
    check_fatal("1 of its threads pause, such as 0", [] { add_together(false, 2); });
}

void check_mistakes_of_memory() {
    alignas(16) static float numbers[8] = {};
    using Two = Pack<float, 2>;
    check_mistake("called load_global for 8 bytes", [] { load_global<Two>(numbers + 1); });
    check_mistake("called store_global for 8 bytes", [] { store_global(numbers + 1, Two{}); });
    check_mistake("called copy_to_shared for 8 bytes", [] { copy_to_shared<Two>(shared_memory(), numbers + 1); });
    check_mistake("called copy_to_shared for 8 bytes", [] { copy_to_shared<Two>(shared_memory() + 4, numbers); });
    check_mistake("the destination is not in shared memory", [] { copy_to_shared<Two>(numbers, numbers + 2); });
    check_mistake("the address is in shared memory", [] { load_global<Two>(shared_memory()); });
    check_mistake("the launch has stored there before", [] {
        store_global(numbers + thread_index() % 4 * 2, Two{});
        if (thread_index() % 4 == 0) load_global<Pack<float, 1>>(numbers + 5);
    });
#if defined(__SANITIZE_ADDRESS__)
    check_mistake("heap-buffer-overflow", [] { shared_memory()[64] = 0; });
    check_mistake("stack-buffer-overflow", [] {
        int few[2] = {};
        int* volatile pointer = few;
        pointer[thread_index()] = 1;
    });
#endif
}

}  // namespace
}  // namespace bnfast::cuda

int main() {
    using namespace bnfast::cuda;
    check_sums();
    check_that_a_missing_barrier_shows();
    check_several_launching_threads();
    check_blocks_that_run_together();
    check_unwritten_memory();
    check_that_launches_are_apart();
    check_copies();
    check_refused_launches();
    check_mistakes_of_waiting();
    check_mistakes_of_memory();
}
