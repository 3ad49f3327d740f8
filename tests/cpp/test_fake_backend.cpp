// A second backend: a call on its device arrives there whole, and nobody touches its data on the way.
#include <bnfast/batch_norm.h>
#include <bnfast/dropout.h>
#include <bnfast/norms.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "problem/backend.h"

namespace {

using namespace bnfast;

// No memory: whoever follows these addresses ends the process.
void* const kX = reinterpret_cast<void*>(0x10000);
void* const kGamma = reinterpret_cast<void*>(0x20000);
void* const kBeta = reinterpret_cast<void*>(0x30000);
void* const kResidual = reinterpret_cast<void*>(0x40000);
void* const kWhere = reinterpret_cast<void*>(0x50000);
void* const kY = reinterpret_cast<void*>(0x60000);
void* const kDy = reinterpret_cast<void*>(0x70000);
void* const kDx = reinterpret_cast<void*>(0x80000);
void* const kDresidual = reinterpret_cast<void*>(0x90000);
double* const kValues = reinterpret_cast<double*>(0xa0000);
double* const kDgamma = reinterpret_cast<double*>(0xb0000);
double* const kDbeta = reinterpret_cast<double*>(0xc0000);

constexpr std::int64_t kShape[] = {2, 3, 5}, kStrides[] = {60, 20, 4};
constexpr std::int64_t kChannels[] = {3}, kChannelStrides[] = {4};
constexpr std::int64_t kWhereShape[] = {2, 5}, kWhereStrides[] = {5, 1};

TensorView on_device(void* data, const std::int64_t* shape, const std::int64_t* strides, int ndim,
                     DType dtype = DType::kFloat32) {
    TensorView view;
    view.data = data;
    view.shape = shape;
    view.strides = strides;
    view.ndim = ndim;
    view.dtype = dtype;
    view.device = {Device::Type::kCuda, 1};
    return view;
}
TensorView tensor(void* data) { return on_device(data, kShape, kStrides, 3); }

void require(bool condition, const char* what) {
    if (condition) return;
    std::printf("FAILED: %s\n", what);
    std::exit(1);
}

// The calls that arrived, in order.
std::vector<std::string> arrived;

void require_x(const NormProblem& problem, Scope scope) {
    require(problem.x.data == kX && problem.x.device == (Device{Device::Type::kCuda, 1}), "x arrives with its device");
    require(problem.layout.geometry.channels == 3 && problem.layout.axes.scope == scope, "and with its layout");
    require(problem.numbers.values == kValues, "and with the state");
}

Backend fake_backend() {
    Backend backend{};
    backend.name = "fake";
    backend.first_negative = [](const TensorView&) -> std::optional<FoundNumber> {
        arrived.push_back("first_negative");
        return std::nullopt;
    };
    backend.first_small_gamma = [](const ChannelInputs&, std::int64_t,
                                   const SmallestGamma&) -> std::optional<FoundNumber> {
        arrived.push_back("first_small_gamma");
        return std::nullopt;
    };
    backend.count_taking_part = [](const NormProblem&) -> std::int64_t { return 10; };
    backend.set_channels = [](const NormProblem& problem, const ChannelInputs& inputs) {
        require(inputs.gamma && inputs.gamma->data == kGamma && inputs.beta && inputs.beta->data == kBeta,
                "gamma and beta arrive");
        require(problem.numbers.values == kValues, "with the memory that they go to");
        arrived.push_back(inputs.mean && inputs.var ? "set all channels" : "set_channels");
    };
    backend.set_statistics = [](const NormProblem&, const Moments&) { arrived.push_back("set_statistics"); };
    backend.inference = [](const NormProblem& problem, const ChannelInputs& inputs) {
        require(problem.x.data == kX && problem.y->data == kY, "inference: x and y arrive");
        require(inputs.mean && inputs.mean->data == kGamma && inputs.var && inputs.var->data == kBeta,
                "mean and var, too");
        arrived.push_back("inference");
    };
    backend.moments = [](const NormProblem& problem, Moments& out) {
        require(problem.x.data == kX && problem.where && problem.where->data == kWhere, "moments: x and where arrive");
        out.count.assign(3, 10);
        arrived.push_back("moments");
    };
    backend.forward = [](const NormProblem& problem) {
        require_x(problem, problem.layout.axes.scope);
        require(problem.y && problem.y->data == kY, "y arrives");
        require(problem.epilogue.activation == Activation::kGelu && problem.epilogue.has_dropout(), "and what follows");
        require(problem.eps == 0.5 && problem.eps_placement == EpsPlacement::kStd, "and eps");
        arrived.push_back(problem.layout.axes.scope == Scope::kGroup ? "forward a sample" : "forward");
    };
    backend.normalise = [](const NormProblem&) { arrived.push_back("normalise"); };
    backend.gradient_sums = [](const NormProblem& problem, GradientSums& out) {
        require(problem.dy && problem.dy->data == kDy, "dy arrives");
        out.count.assign(3, 10);
        out.sum_dy.assign(3, 1.0);
        out.sum_dy_xmu.assign(3, 1.0);
        arrived.push_back("gradient_sums");
    };
    backend.backward = [](const NormProblem& problem) {
        require_x(problem, problem.layout.axes.scope);
        require(problem.dy && problem.dy->data == kDy && problem.dx && problem.dx->data == kDx, "dy and dx arrive");
        require(problem.dgamma == kDgamma && problem.dbeta == kDbeta, "and dgamma and dbeta");
        const bool with_residual = problem.epilogue.residual && problem.epilogue.residual->data == kResidual &&
                                   problem.dresidual && problem.dresidual->data == kDresidual;
        arrived.push_back(with_residual ? "backward with residual" : "backward");
    };
    backend.backward_with_sums = [](const NormProblem&, const GradientSums&) { arrived.push_back("with sums"); };
    backend.dropout = [](const DropoutProblem& problem) {
        require(problem.x.data == kX && problem.y.data == kY, "dropout: x and y arrive");
        arrived.push_back("dropout");
    };
    return backend;
}

}  // namespace

int main() {
    const Backend fake = fake_backend();
    set_backend(Device::Type::kCuda, &fake);

    NormInputs inputs;
    inputs.x = tensor(kX);
    inputs.gamma = on_device(kGamma, kChannels, kChannelStrides, 1);
    inputs.beta = on_device(kBeta, kChannels, kChannelStrides, 1);
    inputs.residual = tensor(kResidual);
    NormOptions options;
    options.activation = Activation::kGelu;
    options.dropout = 0.25;
    options.eps = 0.5;
    options.eps_placement = EpsPlacement::kStd;
    NormState state;
    state.values = kValues;
    state.capacity = batch_norm_state_size(inputs.x, 1);
    batch_norm(inputs, options, tensor(kY), state);

    NormBackwardInputs backward;
    backward.x = inputs.x;
    backward.residual = inputs.residual;
    backward.dy = tensor(kDy);
    NormGradients gradients;
    gradients.dx = tensor(kDx);
    gradients.dresidual = tensor(kDresidual);
    gradients.dgamma = kDgamma;
    gradients.dbeta = kDbeta;
    batch_norm_backward(backward, state, gradients);
    const GradientSums sums = batch_norm_backward_sums(backward, state);
    batch_norm_backward_with_sums(backward, state, sums, gradients);

    const Moments stats = moments(inputs.x, on_device(kWhere, kWhereShape, kWhereStrides, 2, DType::kBool), 1);
    Moments given = stats;
    given.mean = given.mean_low = given.m2 = {0.0, 0.0, 0.0};
    batch_norm_with_stats(inputs, options, given, tensor(kY), state);
    const TensorView mean = *inputs.gamma, var = *inputs.beta;
    NormOptions without_dropout = options;
    without_dropout.dropout = 0.0;
    batch_norm_inference(inputs, mean, var, without_dropout, tensor(kY));

    NormInputs plain = inputs;
    plain.residual.reset();
    NormOptions invertible;
    batch_norm_frozen(plain, mean, var, invertible, tensor(kX), state);  // in place: gamma is looked at, by the backend

    state.capacity = instance_norm_state_size(inputs.x, 1);
    instance_norm(inputs, options, tensor(kY), state);
    norm_backward(backward, state, gradients);
    dropout(tensor(kX), {}, tensor(kY));

    const std::vector<std::string> expected = {"set_channels",   "forward",           "backward with residual",
                                               "gradient_sums",  "with sums",         "moments",
                                               "set_channels",   "set_statistics",    "normalise",  // with stats
                                               "first_negative", "inference",                       // inference
                                               "first_negative", "first_small_gamma", "set all channels",
                                               "normalise",  // frozen, in place
                                               "set_channels",   "forward a sample",  "backward with residual",
                                               "dropout"};
    for (const std::string& name : arrived) std::printf("%s, ", name.c_str());
    require(arrived == expected, "these calls arrive, in this order");
    std::printf("all of them whole\n");
    return 0;
}
