// The CPU as a backend, and as the machine that runs the program.
#pragma once

#include "problem/backend.h"
#include "problem/host.h"

namespace bnfast::cpu {

extern const Backend kBackend;
extern const Host kHost;

}  // namespace bnfast::cpu
