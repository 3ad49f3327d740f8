// What a thread does that finds Python ending.
#include "gil.h"

#include <chrono>
#include <thread>

namespace bnfast::bindings {

void wait_for_the_end() noexcept {
    while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}

}  // namespace bnfast::bindings
