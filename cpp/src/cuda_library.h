// The library of the CUDA backend, loaded when it is first asked for.
#pragma once

#include "cuda/library.h"

namespace bnfast {

// Null where there is none, where it is of another version, or where it finds no device. Any thread may ask.
const cuda::Library* cuda_library();
// Why there is none, as a sentence without its full stop.
const char* why_no_cuda_library();

}  // namespace bnfast
