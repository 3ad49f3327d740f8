// Arguments of good calls, which a bad call spoils in one place, and what is expected of it.
#pragma once

#include <bnfast/batch_norm.h>
#include <bnfast/dropout.h>
#include <bnfast/error.h>
#include <bnfast/norms.h>
#include <bnfast/runtime.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace bad_calls {

using namespace bnfast;

constexpr std::int64_t kSamples = 3, kChannels = 4, kLength = 5;
constexpr std::int64_t kElements = kSamples * kChannels * kLength;
constexpr std::int64_t kShape[] = {kSamples, kChannels, kLength};
constexpr std::int64_t kStrides[] = {kChannels * kLength * 4, kLength * 4, 4};
constexpr std::int64_t kOtherShape[] = {kSamples, kChannels, kLength - 1};
constexpr std::int64_t kVectorShape[] = {kChannels}, kVectorStrides[] = {4}, kShortShape[] = {kChannels - 1};
constexpr std::int64_t kNegativeShape[] = {kSamples, -1, kLength};
constexpr std::int64_t kHugeShape[] = {std::int64_t{1} << 40, std::int64_t{1} << 40, 1};
constexpr std::int64_t kOverlapping[] = {0, kLength * 4, 4};
constexpr std::int64_t kWhereShape[] = {kSamples, 1, kLength}, kWhereStrides[] = {kLength, 0, 1};
constexpr std::int64_t kWrongWhereShape[] = {2, 1, kLength};

inline TensorView view_of(void* data, const std::int64_t* shape, const std::int64_t* strides, int ndim,
                          DType dtype = DType::kFloat32) {
    TensorView view;
    view.data = data;
    view.shape = shape;
    view.strides = strides;
    view.ndim = ndim;
    view.dtype = dtype;
    return view;
}

// Everything that a call may read or write. Outputs hold a pattern that a bad call must leave as it is.
struct Arena {
    std::vector<float> x = std::vector<float>(kElements), dy = x, residual = x;
    std::vector<float> y = std::vector<float>(kElements, kPattern), dx = y, dresidual = y;
    std::vector<float> gamma = std::vector<float>(kChannels, 1.0F), beta = gamma, mean = gamma, var = gamma;
    std::vector<std::uint8_t> where = std::vector<std::uint8_t>(kSamples * kLength, 1);
    std::vector<double> dgamma = std::vector<double>(kChannels, kPattern), dbeta = dgamma;
    std::vector<std::uint8_t> mask = std::vector<std::uint8_t>(kElements, 7);
    static constexpr float kPattern = 12345.0F;

    // Arguments of a good call, which each bad call spoils in one place.
    NormInputs inputs;
    NormBackwardInputs backward;
    NormGradients gradients;
    NormOptions options;
    DropoutOptions dropping;
    OwnedNormState saved;
    Moments stats;
    GradientSums sums;

    Arena() : saved(200) {
        for (std::int64_t i = 0; i < kElements; ++i) {
            x[static_cast<std::size_t>(i)] = std::sin(static_cast<float>(i));
            dy[static_cast<std::size_t>(i)] = std::cos(static_cast<float>(i));
        }
        inputs.x = tensor(x);
        inputs.gamma = vector(gamma);
        inputs.beta = vector(beta);
        batch_norm(inputs, options, tensor(y), saved.state());
        y.assign(y.size(), kPattern);
        backward.x = tensor(x);
        backward.dy = tensor(dy);
        gradients.dx = tensor(dx);
        gradients.dgamma = dgamma.data();
        gradients.dbeta = dbeta.data();
        stats = moments(inputs.x, std::nullopt, 1);
        sums = batch_norm_backward_sums(backward, saved.state());
    }
    static TensorView tensor(std::vector<float>& values) { return view_of(values.data(), kShape, kStrides, 3); }
    static TensorView vector(std::vector<float>& values) {
        return view_of(values.data(), kVectorShape, kVectorStrides, 1);
    }
    TensorView where_view() { return view_of(where.data(), kWhereShape, kWhereStrides, 3, DType::kBool); }
    bool is_untouched() const {
        bool same = true;
        for (const auto* values : {&y, &dx, &dresidual}) {
            for (const float value : *values) same = same && value == kPattern;
        }
        for (const auto* values : {&dgamma, &dbeta}) {
            for (const double value : *values) same = same && value == static_cast<double>(kPattern);
        }
        for (const std::uint8_t byte : mask) same = same && byte == 7;
        return same;
    }
};

inline int failures = 0, calls = 0;

// Runs `call` on fresh arguments: it must throw Error with a message that has both texts in it.
template <class Error>
void expect(const char* operation, const char* text, const std::function<void(Arena&)>& call) {
    Arena arena;
    ++calls;
    std::string got = "no error";
    bool right = false;
    try {
        call(arena);
    } catch (const Error& error) {
        got = error.what();
        right = got.rfind(std::string(operation) + ": ", 0) == 0 && got.find(text) != std::string::npos;
    } catch (const std::exception& error) {
        got = std::string("another exception: ") + error.what();
    }
    if (right && arena.is_untouched()) return;
    ++failures;
    std::printf("FAILED: %s, expected '%s': %s%s\n", operation, text, got.c_str(),
                arena.is_untouched() ? "" : ", and something was written");
}

}  // namespace bad_calls
