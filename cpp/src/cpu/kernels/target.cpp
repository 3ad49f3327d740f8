// The table of one target, and its kernels on per-channel values. The loops over channels have no order to keep, so the
// compiler vectorises them.
#include "cpu/kernels/span.h"
#include "math/philox.h"

namespace bnfast {
namespace BNFAST_TARGET {

cpu::ElementKernels elements_of_float() noexcept;
cpu::ElementKernels elements_of_double() noexcept;
cpu::ElementKernels elements_of_Half() noexcept;
cpu::ElementKernels elements_of_BFloat16() noexcept;

// Chan, Golub & LeVeque 1979: the moments of two parts give those of the whole. Block b absorbs block b + step, for
// step 1, 2, 4 ...: a tree that depends on the number of blocks alone.
void merge_pair(const BlockMoments& m, std::int64_t a, std::int64_t b, double count_a, double count_b,
                std::int64_t width) {
    if (count_b == 0.0) return;
    const double share = count_b / (count_a + count_b);
    for (std::int64_t c = 0; c < width; ++c) {
        const double mean = m.mean[a + c], low = m.mean_low[a + c];
        const double delta = (m.mean[b + c] - mean) + (m.mean_low[b + c] - low);
        const double step = delta * share;
        const double sum = mean + step;  // two_sum, then the low parts, then fast_two_sum
        const double back = sum - mean;
        const double rest = ((mean - (sum - back)) + (step - back)) + low;
        const double high = sum + rest;
        m.mean[a + c] = count_a == 0.0 ? m.mean[b + c] : high;
        m.mean_low[a + c] = count_a == 0.0 ? m.mean_low[b + c] : rest - (high - sum);
        m.m2[a + c] = count_a == 0.0 ? m.m2[b + c] : (m.m2[a + c] + m.m2[b + c]) + delta * step * count_a;
    }
}

void merge_moments(const BlockMoments& m, const double* counts, std::int64_t blocks, std::int64_t pitch,
                   std::int64_t width) noexcept {
    // counts of merged blocks: those of the blocks below, summed when needed (exact: integers below 2**53).
    for (std::int64_t step = 1; step < blocks; step *= 2) {
        for (std::int64_t b = 0; b + step < blocks; b += 2 * step) {
            double count_a = 0.0, count_b = 0.0;
            for (std::int64_t i = b; i < b + step; ++i) count_a += counts[i];
            for (std::int64_t i = b + step; i < b + 2 * step && i < blocks; ++i) count_b += counts[i];
            merge_pair(m, b * pitch, (b + step) * pitch, count_a, count_b, width);
        }
    }
}

void merge_sums(const BlockSums& sums, std::int64_t blocks, std::int64_t pitch, std::int64_t width) noexcept {
    for (std::int64_t step = 1; step < blocks; step *= 2) {
        for (std::int64_t b = 0; b + step < blocks; b += 2 * step) {
            double *dz = sums.dz + b * pitch, *dz_xmu = sums.dz_xmu + b * pitch;
            for (std::int64_t c = 0; c < width; ++c) {
                dz[c] += dz[c + step * pitch];
                dz_xmu[c] += dz_xmu[c + step * pitch];
            }
        }
    }
}

void invstd(const double* m2, const double* count, double eps, EpsPlacement placement, std::int64_t channels,
            double* result) noexcept {
    const double inside = placement == EpsPlacement::kVar ? eps : 0.0;
    const double outside = placement == EpsPlacement::kVar ? 0.0 : eps;
    for (std::int64_t c = 0; c < channels; ++c) {
        const double var = count[c] > 0.0 ? m2[c] / count[c] : 0.0;
        const double std = __builtin_sqrt(var + inside) + outside;
        result[c] = std == 0.0 ? 0.0 : 1.0 / std;  // var = eps = 0: x - mean is 0, and so is its product
    }
}

// Powers of two that keep 32-bit intermediates in range where the scale of x or of gamma is extreme.
constexpr double kExtreme = 0x1p60;
constexpr double kRescue = 0x1p64;

// Fills the padding behind the last channel with the first channels again, for vectors that reach into the next row.
template <class T>
void continue_periodically(T* values, std::int64_t channels) {
    for (std::int64_t i = 0; i < kLanes && channels > 0; ++i) values[channels + i] = values[i % channels];
}

// A coefficient in the type computed with; finite, so that its product with zero is zero.
template <class T>
BNFAST_INLINE T finite_coefficient(double value) {
    if (sizeof(T) == 8 || value != value) return static_cast<T>(value);
    constexpr double kLargest = 0x1.fffffep127;
    return static_cast<T>(value > kLargest ? kLargest : value < -kLargest ? -kLargest : value);
}

template <class T>
bool fill_coefficients(const cpu::AffineInputs& in, std::int64_t channels, const cpu::BasicCoefficients<void*>& out) {
    T *prescale = static_cast<T*>(out.prescale), *high = static_cast<T*>(out.mean_high);
    T *low = static_cast<T*>(out.mean_low), *scale = static_cast<T*>(out.scale), *shift = static_cast<T*>(out.shift);
    T* inverse = static_cast<T*>(out.inverse);
    bool any = false;
    for (std::int64_t c = 0; c < channels; ++c) {
        const double wanted = in.gamma[c] * in.invstd[c];
        const bool large = in.invstd[c] < 1.0 / kExtreme && in.invstd[c] > 0.0;
        const bool small = in.invstd[c] > kExtreme || wanted > kExtreme || wanted < -kExtreme;
        const double k = sizeof(T) == 8 ? 1.0 : large ? 1.0 / kRescue : small ? kRescue : 1.0;
        any |= k != 1.0;
        prescale[c] = static_cast<T>(k);
        const double mean = in.mean[c] * k;
        high[c] = static_cast<T>(mean);
        low[c] = static_cast<T>((mean - static_cast<double>(high[c])) + in.mean_low[c] * k);
        scale[c] = finite_coefficient<T>(wanted / k);
        shift[c] = static_cast<T>(in.beta[c]);
        inverse[c] = wanted == 0.0 ? T(0) : finite_coefficient<T>(k / wanted);
    }
    T* const all[] = {prescale, high, low, scale, shift, inverse};
    for (T* values : all) continue_periodically(values, channels);
    return any;
}

bool forward_coefficients(const cpu::AffineInputs& in, bool is_double, std::int64_t channels,
                          const cpu::BasicCoefficients<void*>& out) noexcept {
    return is_double ? fill_coefficients<double>(in, channels, out) : fill_coefficients<float>(in, channels, out);
}

template <class T>
void fill_gradient_coefficients(const cpu::GradientInputs& in, std::int64_t channels, const Coefficients& affine,
                                const cpu::BasicCoefficients<void*>& out) {
    T *mean_dz = static_cast<T*>(out.mean_dz), *projection = static_cast<T*>(out.projection);
    T* dx_scale = static_cast<T*>(out.dx_scale);
    const T* prescale = static_cast<const T*>(affine.prescale);
    for (std::int64_t c = 0; c < channels; ++c) {
        const double invstd = in.invstd[c];
        // Differentiating sqrt(var) + eps in place of sqrt(var + eps) replaces invstd^2 by invstd / sqrt(var); where
        // var is zero so is x - mean, and the factor is of no account.
        const double var = in.m2[c] / in.count[c];
        const double std_square = var > 0.0 ? invstd / __builtin_sqrt(var) : 0.0;
        const double square = in.placement == EpsPlacement::kStd ? std_square : invstd * invstd;
        const double count = in.constant_statistics ? 0.0 : in.total_count[c];
        const double share = count > 0.0 ? 1.0 / count : 0.0;
        const double scaled = prescale != nullptr ? static_cast<double>(prescale[c]) : 1.0;
        mean_dz[c] = count > 0.0 ? static_cast<T>(in.sum_dz[c] * share) : T(0);
        projection[c] = count > 0.0 ? finite_coefficient<T>(square * (in.sum_dz_xmu[c] * share) / scaled) : T(0);
        dx_scale[c] = finite_coefficient<T>(in.gamma[c] * invstd);
    }
    T* const all[] = {mean_dz, projection, dx_scale};
    for (T* values : all) continue_periodically(values, channels);
}

void gradient_coefficients(const cpu::GradientInputs& in, bool is_double, std::int64_t channels,
                           const Coefficients& affine, const cpu::BasicCoefficients<void*>& out) noexcept {
    if (is_double) {
        fill_gradient_coefficients<double>(in, channels, affine, out);
    } else {
        fill_gradient_coefficients<float>(in, channels, affine, out);
    }
}

void keep_bits(const DropoutBits& bits, std::uint64_t first_group, std::int64_t groups, std::uint8_t* out) noexcept {
    PhiloxStream stream;
    stream.start(bits.seed, bits.offset);
    for (std::int64_t g = 0, count; g < groups; g += count) {
        const std::uint64_t group = first_group + static_cast<std::uint64_t>(g);
        const std::int64_t skip = static_cast<std::int64_t>(group % kBatch);
        count = groups - g < kBatch - skip ? groups - g : kBatch - skip;
        std::uint64_t batch[kBatchWords];
        keep_bits_of_batch(bits, stream, group - group % kBatch, batch);
        __builtin_memcpy(out + g * kGroupBytes, reinterpret_cast<const char*>(batch) + skip * kGroupBytes,
                         static_cast<std::size_t>(count * kGroupBytes));
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
    return {BNFAST_TARGET_NAME,
            {elements_of_float(), elements_of_double(), elements_of_Half(), elements_of_BFloat16()},
            &merge_moments,
            &merge_sums,
            &invstd,
            &forward_coefficients,
            &gradient_coefficients,
            &keep_bits,
            &stream_sum};
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
