// CUDA as a backend: each call is bound to memory of a GPU, and becomes some launches.
#pragma once

#include "problem/backend.h"

namespace bnfast::cuda {

extern const Backend kBackend;

}  // namespace bnfast::cuda
