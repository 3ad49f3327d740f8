// Normalises a small batch with every SIMD target that this machine can run: y has the same bits.
#include <bnfast/batch_norm.h>
#include <bnfast/runtime.h>

#include <cmath>
#include <cstdio>
#include <vector>

namespace {

constexpr int kSamples = 37, kChannels = 19;

constexpr std::int64_t kShape[] = {kSamples, kChannels};
constexpr std::int64_t kStrides[] = {kChannels * sizeof(float), sizeof(float)};  // in bytes

// A dense matrix as a view. bnfast reads and writes the caller's memory and owns none of it.
bnfast::TensorView view_of(std::vector<float>& values) {
    bnfast::TensorView view;
    view.data = values.data();
    view.dtype = bnfast::DType::kFloat32;
    view.ndim = 2;
    view.shape = kShape;
    view.strides = kStrides;
    return view;
}

double worst_channel_mean(const std::vector<float>& y) {
    double worst = 0;
    for (int c = 0; c < kChannels; ++c) {
        double sum = 0;
        for (int n = 0; n < kSamples; ++n) sum += static_cast<double>(y[n * kChannels + c]);
        worst = std::fmax(worst, std::fabs(sum / kSamples));
    }
    return worst;
}

}  // namespace

int main() {
    std::vector<float> x(kSamples * kChannels), y(x.size()), dx(x.size()), first;
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = 100.0F + std::sin(static_cast<float>(i));

    bnfast::NormInputs inputs;
    inputs.x = view_of(x);  // gamma and beta are absent: 1 and 0
    bnfast::NormOptions options;
    options.axis = 1;

    // What backward needs of forward, in memory of ours.
    std::vector<double> numbers(static_cast<std::size_t>(bnfast::batch_norm_state_size(inputs.x, options.axis)));
    bnfast::NormState state;
    state.values = numbers.data();
    state.capacity = static_cast<std::int64_t>(numbers.size());

    for (const char* const target : bnfast::targets()) {
        bnfast::select_target(target);
        bnfast::batch_norm(inputs, options, view_of(y), state);

        std::vector<double> dgamma(kChannels), dbeta(kChannels);
        bnfast::NormBackwardInputs backward;
        backward.x = inputs.x;
        backward.dy = view_of(y);
        bnfast::NormGradients gradients;
        gradients.dx = view_of(dx);
        gradients.dgamma = dgamma.data();
        gradients.dbeta = dbeta.data();
        bnfast::batch_norm_backward(backward, state, gradients);

        if (first.empty()) first = y;
        const double mean = worst_channel_mean(y);
        std::printf("%-10s channel means within %.1e of 0, %s\n", target, mean,
                    y == first ? "same bits" : "OTHER BITS");
        if (!(mean < 1e-6) || y != first) return 1;
    }
    return 0;
}
