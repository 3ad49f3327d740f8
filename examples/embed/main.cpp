// Normalises a small batch from C++, with every SIMD target that this machine can run, and checks the result.
#include <bnfast/batch_norm.h>
#include <bnfast/runtime.h>

#include <cmath>
#include <cstdio>
#include <vector>

namespace {

constexpr int kSamples = 37, kChannels = 19;

// A dense matrix as a view. bnfast reads and writes the caller's memory and owns none of it.
bnfast::TensorView view_of(std::vector<float>& values) {
    bnfast::TensorView view;
    view.data = values.data();
    view.dtype = bnfast::DType::kFloat32;
    view.ndim = 2;
    view.shape[0] = kSamples;
    view.shape[1] = kChannels;
    view.strides[0] = kChannels * sizeof(float);
    view.strides[1] = sizeof(float);
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

    bnfast::BatchNormInputs inputs;
    inputs.x = view_of(x);  // gamma and beta are absent: 1 and 0
    bnfast::BatchNormOptions options;
    options.axis = 1;

    for (const std::string& target : bnfast::targets()) {
        bnfast::select_target(target);
        bnfast::BatchNormSaved saved;
        bnfast::batch_norm(inputs, options, nullptr, view_of(y), saved);
        std::vector<double> dgamma(kChannels), dbeta(kChannels);
        bnfast::batch_norm_backward(inputs, view_of(y), saved, nullptr, view_of(dx), {}, dgamma.data(), dbeta.data());

        if (first.empty()) first = y;
        const double mean = worst_channel_mean(y);
        std::printf("%-10s channel means within %.1e of 0, %s\n", target.c_str(), mean,
                    y == first ? "same bits" : "OTHER BITS");
        if (!(mean < 1e-6) || y != first) return 1;
    }
    return 0;
}
