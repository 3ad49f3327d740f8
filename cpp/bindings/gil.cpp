// What a thread does that finds Python ending.
#include "gil.h"

#include <unistd.h>

namespace bnfast::bindings {

void wait_for_the_end() noexcept {
    while (true) pause();
}

}  // namespace bnfast::bindings
