// The table of one target, and the kernels that do not depend on how elements are stored.
#include "bnfast/tensor.h"
#include "cpu/kernels/channels.h"
#include "cpu/simd/philox_batch.h"

namespace bnfast {
namespace BNFAST_TARGET {

cpu::ElementKernels elements_of_float() noexcept;
cpu::ElementKernels elements_of_double() noexcept;
cpu::ElementKernels elements_of_Half() noexcept;
cpu::ElementKernels elements_of_BFloat16() noexcept;

void mask_bits(const DropoutMask& mask, std::uint64_t first_group, std::int64_t groups, std::uint8_t* out) noexcept {
    constexpr std::int64_t kGroupBytes = kGroup / 8;
    PhiloxStream stream;
    stream.start(mask.seed, mask.offset);
    for (std::int64_t g = 0, count; g < groups; g += count) {
        const std::uint64_t group = first_group + static_cast<std::uint64_t>(g);
        const std::int64_t skip = static_cast<std::int64_t>(group % kBatch);
        count = groups - g < kBatch - skip ? groups - g : kBatch - skip;
        const MaskBatch batch = mask_batch(mask, stream, group - group % kBatch);
        __builtin_memcpy(out + g * kGroupBytes, &batch.group[skip], static_cast<std::size_t>(count * kGroupBytes));
    }
}

void stream_sum(float* dst, const float* const* sources, int num_sources, std::int64_t n) noexcept {
    for_each_vector(n, head_of(dst), [&](std::int64_t i, auto lanes) __attribute__((always_inline)) {
        Vec<float> sum(0.0F);
        for (int k = 0; k < num_sources; ++k) sum = sum + lanes.load(sources[k] + i);
        lanes.store(dst + i, sum, true);
    });
    stream_fence();
}

cpu::KernelTable table() noexcept {
    cpu::KernelTable result;
    result.name = BNFAST_TARGET_NAME;
    result.elements[static_cast<int>(DType::kFloat32)] = elements_of_float();
    result.elements[static_cast<int>(DType::kFloat64)] = elements_of_double();
    result.elements[static_cast<int>(DType::kFloat16)] = elements_of_Half();
    result.elements[static_cast<int>(DType::kBFloat16)] = elements_of_BFloat16();
    result.merge_moments = &merge_moments;
    result.merge_sums = &merge_sums;
    result.invstd = &invstd;
    result.forward_coefficients = &forward_coefficients;
    result.gradient_coefficients = &gradient_coefficients;
    result.mask_bits = &mask_bits;
    result.stream_sum = &stream_sum;
    return result;
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
