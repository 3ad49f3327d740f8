// The arguments of C functions as the C++ ones that they describe: tensors, options, and structs of these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "bnfast/batch_norm.h"
#include "bnfast/bnfast.h"
#include "bnfast/dropout.h"

namespace bnfast::c {

// The size of a struct in the first version that had it: that of an older program is as short.
template <class T>
constexpr std::size_t kFirstSize = sizeof(T);
template <>
inline constexpr std::size_t kFirstSize<bnfast_tensor> = offsetof(bnfast_tensor, stream);
template <>
inline constexpr std::size_t kFirstSize<bnfast_norm_inputs> = offsetof(bnfast_norm_inputs, state_numbers);

// Copies a struct of `size` bytes, with zeros in what the caller's does not have. ValueError where that is NULL, is
// shorter than `first_size`, or is longer than `size` and says something there.
void read_struct(const char* operation, const char* name, const void* given, std::size_t first_size, std::size_t size,
                 void* copy);

template <class T>
T checked(const char* operation, const char* name, const T* given) {
    T copy{};
    read_struct(operation, name, given, kFirstSize<T>, sizeof(T), &copy);
    return copy;
}

// ValueError where `pointer` is NULL.
void check_pointer(const char* operation, const char* name, const void* pointer);

// A tensor, or an absent one where the pointer is NULL.
class Tensor {
  public:
    Tensor(const char* operation, const char* name, const bnfast_tensor* tensor);
    Tensor(const Tensor&) = delete;  // the view may point to strides_
    Tensor& operator=(const Tensor&) = delete;

    // ValueError where it is absent.
    const TensorView& required() const;
    const std::optional<TensorView>& optional() const { return view_; }

  private:
    const char *operation_, *name_;
    std::optional<TensorView> view_;
    std::int64_t strides_[kMaxDims];  // those of C order, where the caller gave none; the first ndim
};

// What each of these makes stays good as long as the object lives.
class Inputs {
  public:
    Inputs(const char* operation, const bnfast_norm_inputs* inputs);
    const NormInputs& operator*() const { return inputs_; }
    const Device& device() const { return inputs_.x.device; }
    // Memory of x's device for the numbers of the state, or NULL.
    double* state_numbers() const { return state_numbers_; }

  private:
    Inputs(const char* operation, const bnfast_norm_inputs& inputs);
    Tensor x_, gamma_, beta_, residual_, where_;
    NormInputs inputs_;
    double* state_numbers_;
};

class BackwardInputs {
  public:
    BackwardInputs(const char* operation, const bnfast_norm_backward_inputs* inputs);
    const NormBackwardInputs& operator*() const { return inputs_; }

  private:
    Tensor x_, residual_, where_, dy_, dh_;
    NormBackwardInputs inputs_;
};

class Gradients {
  public:
    Gradients(const char* operation, const bnfast_norm_gradients* gradients);
    const NormGradients& operator*() const { return gradients_; }

  private:
    Tensor dx_, dresidual_;
    NormGradients gradients_;
};

NormOptions options_of(const char* operation, const bnfast_norm_options* options);
DropoutOptions options_of(const char* operation, const bnfast_dropout_options* options);

}  // namespace bnfast::c
