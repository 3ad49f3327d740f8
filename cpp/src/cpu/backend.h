// The CPU as a backend, and as the machine that runs the program.
#pragma once

#include "problem/backend.h"
#include "problem/host.h"

namespace bnfast::cpu {

const Backend& backend();
const Host& host();

}  // namespace bnfast::cpu
