// What the library of the CUDA backend shows.
#include "cuda/library.h"

#include <cstring>

#include "cuda/backend.h"
#include "cuda/runtime.h"

namespace bnfast::cuda {
namespace {

CudaDevice describe(int index) {
    const OnDevice device(index);
    const Properties& chip = properties();
    CudaDevice result{{}, chip.major, chip.minor, chip.memory_bytes};
    std::memcpy(result.name, chip.name, sizeof result.name);
    return result;
}

constexpr Library make_library() {
    return {BNFAST_VERSION, &kBackend, {BNFAST_CUDA_ARCHITECTURES, &device_count, &describe}, &why_unavailable};
}

}  // namespace
}  // namespace bnfast::cuda

const bnfast::cuda::Library* bnfast_cuda_library() {
    static constexpr bnfast::cuda::Library library = bnfast::cuda::make_library();
    return &library;
}
