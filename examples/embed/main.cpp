// A training step of batch norm and ReLU: forward, and the gradients of x, gamma and beta.
#include <bnfast/batch_norm.h>

#include <cstdio>
#include <vector>

int main() {
    constexpr int kSamples = 32, kChannels = 64;
    const std::int64_t shape[] = {kSamples, kChannels}, strides[] = {kChannels * sizeof(float), sizeof(float)};
    // bnfast reads and writes memory of yours, in any strides, and owns none of it.
    const auto view = [&](std::vector<float>& values) {
        return bnfast::TensorView{values.data(), shape, strides, 2, bnfast::DType::kFloat32, {}};
    };
    std::vector<float> x(kSamples * kChannels), y(x.size()), dx(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * i % 97);

    bnfast::NormInputs inputs;
    inputs.x = view(x);  // gamma and beta are absent: 1 and 0
    bnfast::NormOptions options;
    options.activation = bnfast::Activation::kRelu;
    bnfast::OwnedNormState saved(bnfast::batch_norm_state_size(inputs.x, options.axis));  // what backward will need
    bnfast::batch_norm(inputs, options, view(y), saved.state());

    std::vector<double> dgamma(kChannels), dbeta(kChannels);
    bnfast::NormBackwardInputs backward;
    backward.x = inputs.x;
    backward.dy = view(y);  // of the loss sum(y^2) / 2
    bnfast::NormGradients gradients{view(dx), std::nullopt, dgamma.data(), dbeta.data()};
    bnfast::batch_norm_backward(backward, saved.state(), gradients);
    std::printf("channel 0 has mean %g, and dgamma %g\n", saved.state().mean()[0], dgamma[0]);
}
