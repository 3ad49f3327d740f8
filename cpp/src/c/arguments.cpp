// The arguments of C functions as the C++ ones that they describe: tensors, options, and structs of these.
#include "c/arguments.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "c/status.h"

namespace bnfast::c {

// The constants of C are the enumerators of C++.
static_assert(BNFAST_BOOL == static_cast<int>(DType::kBool) && BNFAST_BFLOAT16 == static_cast<int>(DType::kBFloat16));
static_assert(BNFAST_CPU == static_cast<int>(Device::Type::kCpu) &&
              BNFAST_CUDA == static_cast<int>(Device::Type::kCuda));
static_assert(BNFAST_ELU == static_cast<int>(Activation::kElu) && BNFAST_TANH == static_cast<int>(Activation::kTanh));
static_assert(BNFAST_EPS_STD == static_cast<int>(EpsPlacement::kStd));
static_assert(BNFAST_DROPOUT_ALPHA == static_cast<int>(DropoutMode::kAlpha));

namespace {
constexpr std::size_t kMostSize = 4096;  // of a struct: larger numbers were never set
}

void check_pointer(const char* operation, const char* name, const void* pointer) {
    if (pointer == nullptr) fail(operation, std::string(name) + " is NULL");
}

void read_struct(const char* operation, const char* name, const void* given, std::size_t first_size, std::size_t size,
                 void* copy) {
    check_pointer(operation, name, given);
    std::size_t given_size;
    std::memcpy(&given_size, given, sizeof given_size);
    if (given_size < first_size) {
        fail(operation, std::string(name) + ".size is " + std::to_string(given_size) + ", expected " +
                            std::to_string(size) + ", the size of the struct");
    }
    const char* const begin = static_cast<const char*>(given);
    const bool is_longer = given_size > size;
    if (given_size > kMostSize ||
        (is_longer && std::any_of(begin + size, begin + given_size, [](char c) { return c != 0; }))) {
        fail(operation, std::string(name) + ".size is " + std::to_string(given_size) + ", expected " +
                            std::to_string(size) + ", or zeros in what this version of the library does not know");
    }
    std::memcpy(copy, given, std::min(given_size, size));
}

Tensor::Tensor(const char* operation, const char* name, const bnfast_tensor* tensor)
    : operation_(operation), name_(name) {
    if (tensor == nullptr) return;
    const bnfast_tensor given = checked(operation, name, tensor);
    view_.emplace();
    view_->data = given.data;
    view_->shape = given.shape;
    view_->strides = given.strides;
    view_->ndim = given.ndim;
    view_->dtype = static_cast<DType>(given.dtype);
    view_->device = {static_cast<Device::Type>(given.device), given.device_index, given.stream};
    // Whether shape and ndim are right is checked by the function that gets the view.
    if (given.strides != nullptr || given.shape == nullptr || given.ndim > kMaxDims) return;
    std::uint64_t stride = static_cast<std::uint64_t>(item_size(view_->dtype));
    for (int d = given.ndim - 1; d >= 0; --d) {
        strides_[d] = static_cast<std::int64_t>(stride);
        stride *= static_cast<std::uint64_t>(given.shape[d]);
    }
    view_->strides = strides_;
}

const TensorView& Tensor::required() const {
    if (!view_) fail(operation_, std::string(name_) + " is NULL");
    return *view_;
}

Inputs::Inputs(const char* operation, const bnfast_norm_inputs* inputs)
    : Inputs(operation, checked(operation, "inputs", inputs)) {}

Inputs::Inputs(const char* operation, const bnfast_norm_inputs& inputs)
    : x_(operation, "x", inputs.x),
      gamma_(operation, "gamma", inputs.gamma),
      beta_(operation, "beta", inputs.beta),
      residual_(operation, "residual", inputs.residual),
      where_(operation, "where", inputs.where),
      inputs_{x_.required(), gamma_.optional(), beta_.optional(), residual_.optional(), where_.optional()},
      state_numbers_(static_cast<double*>(inputs.state_numbers)) {}

BackwardInputs::BackwardInputs(const char* operation, const bnfast_norm_backward_inputs* inputs)
    : x_(operation, "x", checked(operation, "inputs", inputs).x),
      residual_(operation, "residual", inputs->residual),
      where_(operation, "where", inputs->where),
      dy_(operation, "dy", inputs->dy),
      dh_(operation, "dh", inputs->dh),
      inputs_{x_.required(), residual_.optional(), where_.optional(), dy_.required(), dh_.optional()} {}

Gradients::Gradients(const char* operation, const bnfast_norm_gradients* gradients)
    : dx_(operation, "dx", checked(operation, "gradients", gradients).dx),
      dresidual_(operation, "dresidual", gradients->dresidual),
      gradients_{dx_.required(), dresidual_.optional(), gradients->dgamma, gradients->dbeta} {}

NormOptions options_of(const char* operation, const bnfast_norm_options* options) {
    const bnfast_norm_options given = checked(operation, "options", options);
    if (given.reserved != 0) {
        fail(operation, "options.reserved is " + std::to_string(given.reserved) + ", expected 0");
    }
    NormOptions result;
    result.axis = given.axis;
    result.eps = given.eps;
    result.eps_placement = static_cast<EpsPlacement>(given.eps_placement);
    result.activation = static_cast<Activation>(given.activation);
    result.activation_slope = given.activation_slope;
    result.dropout = given.dropout;
    result.seed = given.seed;
    result.offset = given.offset;
    return result;
}

DropoutOptions options_of(const char* operation, const bnfast_dropout_options* options) {
    const bnfast_dropout_options given = checked(operation, "options", options);
    if (given.num_broadcast_axes < 0 || given.num_broadcast_axes > kMaxDims) {
        fail(operation, "options.num_broadcast_axes is " + std::to_string(given.num_broadcast_axes) +
                            ", expected 0 .. " + std::to_string(kMaxDims));
    }
    if (given.num_broadcast_axes > 0) check_pointer(operation, "options.broadcast_axes", given.broadcast_axes);
    DropoutOptions result;
    result.rate = given.rate;
    result.seed = given.seed;
    result.offset = given.offset;
    result.mode = static_cast<DropoutMode>(given.mode);
    result.broadcast_axes.assign(given.broadcast_axes, given.broadcast_axes + given.num_broadcast_axes);
    return result;
}

}  // namespace bnfast::c

using namespace bnfast::c;

bnfast_status bnfast_norm_options_init(bnfast_norm_options* options, size_t size) {
    const char* const operation = "norm_options_init";
    return status_of(operation, [&] {
        check_pointer(operation, "options", options);
        if (size < sizeof *options || size > kMostSize) {
            fail(operation, "size is " + std::to_string(size) + ", expected " + std::to_string(sizeof *options));
        }
        const bnfast::NormOptions defaults;
        std::memset(options, 0, size);
        options->size = size;
        options->eps = defaults.eps;
        options->activation_slope = defaults.activation_slope;
        options->axis = defaults.axis;
    });
}
