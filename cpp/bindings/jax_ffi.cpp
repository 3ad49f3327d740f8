// XLA custom calls over the core library, which bnfast.jax registers: JAX's buffers become views. No Python in it.
#include <xla/ffi/api/ffi.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <new>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <vector>

#include "bnfast/batch_norm.h"
#include "bnfast/dropout.h"
#include "bnfast/error.h"
#include "bnfast/layout.h"
#include "bnfast/norms.h"

namespace bnfast::jax {

// As bnfast.jax numbers them.
enum class Norm : std::int32_t { kBatch, kLayer, kRms };

}  // namespace bnfast::jax

XLA_FFI_REGISTER_ENUM_ATTR_DECODING(bnfast::jax::Norm);

namespace bnfast::jax {
namespace {

namespace ffi = xla::ffi;
using ffi::AnyBuffer;
using Result = ffi::Result<AnyBuffer>;

// --- buffers as views -------------------------------------------------------------------------------------------

DType dtype_of(ffi::DataType type) {
    switch (type) {
        case ffi::DataType::F64: return DType::kFloat64;
        case ffi::DataType::F32: return DType::kFloat32;
        case ffi::DataType::F16: return DType::kFloat16;
        case ffi::DataType::BF16: return DType::kBFloat16;
        case ffi::DataType::U32: return DType::kFloat32;  // words of seeds and states, which no norm sees
        default: throw TypeError("jax: a buffer has a dtype that is not float32, float64, float16 or bfloat16");
    }
}

// The independent calls that a call under vmap stands for, its examples. vmap puts its axes in front of every buffer;
// an operand that is the same for all examples has length 1 there.
struct Examples {
    // vmap's axes are those that `flat` has beyond one of its own; every result has their lengths.
    Examples(const AnyBuffer& flat, const AnyBuffer& result)
        : lengths(result.dimensions().first(flat.dimensions().size() - 1)),
          count(std::accumulate(lengths.begin(), lengths.end(), std::int64_t{1}, std::multiplies<>())) {}

    ffi::Span<const std::int64_t> lengths;
    std::int64_t count;
};

// A buffer as one view in C order for each example.
class View {
  public:
    View(const Examples& examples, const AnyBuffer& buffer)
        : lengths_(examples.lengths), dimensions_(buffer.dimensions()), data_(buffer.untyped_data()) {
        const std::size_t own = lengths_.size();
        view_.shape = dimensions_.begin() + own;
        view_.ndim = static_cast<int>(dimensions_.size() - own);
        view_.dtype = dtype_of(buffer.element_type());
        strides_.resize(dimensions_.size());
        std::int64_t step = item_size(view_.dtype);
        for (std::size_t d = dimensions_.size(); d-- > 0; step *= dimensions_[d]) strides_[d] = step;
        view_.strides = strides_.data() + own;
    }
    View(const View&) = delete;  // the view points into this object
    View& operator=(const View&) = delete;

    TensorView at(std::int64_t example) const {
        std::int64_t offset = 0;
        for (std::size_t d = lengths_.size(); d-- > 0; example /= lengths_[d]) {
            if (dimensions_[d] > 1) offset += example % lengths_[d] * strides_[d];
        }
        TensorView view = view_;
        view.data = static_cast<std::byte*>(data_) + offset;
        return view;
    }
    // What the call lacks is passed as a buffer without elements.
    std::optional<TensorView> at_if_any(std::int64_t example) const {
        return elements_of(view_) > 0 ? std::optional(at(example)) : std::nullopt;
    }

  private:
    ffi::Span<const std::int64_t> lengths_, dimensions_;
    void* data_;
    std::vector<std::int64_t> strides_;
    TensorView view_;
};

// Calls compute(), whose exceptions become XLA's errors.
template <class F>
ffi::Error guarded(F compute) {
    try {
        compute();
        return ffi::Error::Success();
    } catch (const std::invalid_argument& error) {
        return ffi::Error::InvalidArgument(error.what());
    } catch (const std::bad_alloc&) {
        return {ffi::ErrorCode::kResourceExhausted, "bnfast: out of memory"};
    } catch (const std::exception& error) {
        return ffi::Error::Internal(error.what());
    }
}

// Writes number(i) as each element of a result of float32 or float64.
template <class F>
void fill(const TensorView& result, F number) {
    for (std::int64_t i = 0; i < elements_of(result); ++i) {
        if (result.dtype == DType::kFloat64) {
            static_cast<double*>(result.data)[i] = number(i);
        } else {
            static_cast<float*>(result.data)[i] = static_cast<float>(number(i));
        }
    }
}

// --- norms ------------------------------------------------------------------------------------------------------

// The attributes of a call, under the names that Python gives them.
constexpr char kNorm[] = "norm", kAxis[] = "axis", kEps[] = "eps", kActivation[] = "activation", kRate[] = "rate";
using NormAttr = ffi::Attr<Norm, kNorm>;
using AxisAttr = ffi::Attr<std::int32_t, kAxis>;
using EpsAttr = ffi::Attr<double, kEps>;
using ActivationAttr = ffi::Attr<std::int32_t, kActivation>;

NormOptions options_of(AxisAttr axis, EpsAttr eps, ActivationAttr activation) {
    NormOptions options;
    options.axis = *axis;
    options.eps = *eps;
    options.activation = static_cast<Activation>(*activation);
    return options;
}

// The memory of the state: JAX has no float64 unless it is told to, so that its numbers are pairs of uint32.
void bind_numbers(const TensorView& words, NormState& state) {
    state.values = static_cast<double*>(words.data);
    state.capacity = words.shape[0] / 2;
}

// The state that the forward call had, in which only the numbers were kept.
void describe(Norm norm, const NormOptions& options, const TensorView& x, bool has_residual, NormState& state) {
    const auto product = [](const std::int64_t* first, const std::int64_t* last) {
        return std::accumulate(first, last, std::int64_t{1}, std::multiplies<>());
    };
    const std::int64_t* const axis = x.shape + options.axis;
    const bool batch = norm == Norm::kBatch;
    state.statistics = batch ? *axis : product(x.shape, axis);
    state.parameters = batch ? *axis : product(axis, x.shape + x.ndim);
    state.options = options;
    state.scope = batch ? Scope::kBatch : Scope::kLastAxes;
    state.centre = norm == Norm::kRms ? Centre::kZero : Centre::kMean;
    state.dtype = x.dtype;
    state.ndim = x.ndim;
    std::copy_n(x.shape, x.ndim, state.shape);
    state.has_residual = has_residual;
}

ffi::Error forward(AnyBuffer x, AnyBuffer gamma, AnyBuffer beta, AnyBuffer residual, Result y, Result h, Result mean,
                   Result var, Result state, NormAttr norm, AxisAttr axis, EpsAttr eps, ActivationAttr activation) {
    return guarded([&] {
        const Examples examples(*state, *y);
        const View xs(examples, x), gammas(examples, gamma), betas(examples, beta), residuals(examples, residual);
        const View ys(examples, *y), hs(examples, *h), means(examples, *mean), vars(examples, *var);
        const View states(examples, *state);
        const NormOptions options = options_of(axis, eps, activation);
        for (std::int64_t i = 0; i < examples.count; ++i) {
            const NormInputs inputs{xs.at(i), gammas.at_if_any(i), betas.at_if_any(i), residuals.at_if_any(i), {}};
            NormState filled;
            bind_numbers(states.at(i), filled);
            switch (*norm) {
                case Norm::kBatch: batch_norm(inputs, options, ys.at(i), filled); break;
                case Norm::kLayer: layer_norm(inputs, options, ys.at(i), hs.at_if_any(i), filled); break;
                case Norm::kRms: rms_norm(inputs, options, ys.at(i), hs.at_if_any(i), filled); break;
            }
            fill(means.at(i), [&](std::int64_t c) { return filled.mean()[c]; });
            fill(vars.at(i), [&](std::int64_t c) { return filled.m2()[c] / filled.count()[c]; });
        }
    });
}

ffi::Error backward(AnyBuffer x, AnyBuffer residual, AnyBuffer dy, AnyBuffer dh, AnyBuffer state, Result dx,
                    Result dgamma, Result dbeta, Result dresidual, NormAttr norm, AxisAttr axis, EpsAttr eps,
                    ActivationAttr activation) {
    return guarded([&] {
        const Examples examples(state, *dx);
        const View xs(examples, x), residuals(examples, residual), dys(examples, dy), dhs(examples, dh);
        const View states(examples, state), dxs(examples, *dx), dresiduals(examples, *dresidual);
        const View dgammas(examples, *dgamma), dbetas(examples, *dbeta);
        const NormOptions options = options_of(axis, eps, activation);
        std::vector<double> parameters;
        for (std::int64_t i = 0; i < examples.count; ++i) {
            const NormBackwardInputs inputs{xs.at(i), residuals.at_if_any(i), {}, dys.at(i), dhs.at_if_any(i)};
            NormState kept;
            bind_numbers(states.at(i), kept);
            describe(*norm, options, inputs.x, inputs.residual.has_value(), kept);
            parameters.resize(2 * static_cast<std::size_t>(kept.parameters));
            const NormGradients gradients{dxs.at(i), dresiduals.at_if_any(i), parameters.data(),
                                          parameters.data() + kept.parameters};
            if (*norm == Norm::kBatch) {
                batch_norm_backward(inputs, kept, gradients);
            } else {
                norm_backward(inputs, kept, gradients);
            }
            fill(dgammas.at(i), [&](std::int64_t p) { return gradients.dgamma[p]; });
            fill(dbetas.at(i), [&](std::int64_t p) { return gradients.dbeta[p]; });
        }
    });
}

// --- dropout ----------------------------------------------------------------------------------------------------

// The seed is two words, of which the first is the higher. What is computed is its own gradient, too.
ffi::Error drop(AnyBuffer x, AnyBuffer seed, Result y, ffi::Attr<double, kRate> rate) {
    return guarded([&] {
        const Examples examples(seed, *y);
        const View xs(examples, x), seeds(examples, seed), ys(examples, *y);
        DropoutOptions options;
        options.rate = *rate;
        for (std::int64_t i = 0; i < examples.count; ++i) {
            const auto* const words = static_cast<const std::uint32_t*>(seeds.at(i).data);
            options.seed = std::uint64_t{words[0]} << 32 | words[1];
            dropout(xs.at(i), options, ys.at(i));
        }
    });
}

}  // namespace
}  // namespace bnfast::jax

// --- what the library exports -----------------------------------------------------------------------------------

#pragma GCC visibility push(default)

// Of the headers that this was compiled with: a JAX of an older one cannot call it.
extern "C" std::int32_t bnfast_jax_api_major() { return XLA_FFI_API_MAJOR; }
extern "C" std::int32_t bnfast_jax_api_minor() { return XLA_FFI_API_MINOR; }

// How many float64 numbers the state of a norm takes.
extern "C" std::int64_t bnfast_jax_state_size(std::int64_t statistics, std::int64_t parameters) {
    return bnfast::StateNumbers{nullptr, statistics, parameters}.size();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnfast_jax_forward, bnfast::jax::forward);
XLA_FFI_DEFINE_HANDLER_SYMBOL(bnfast_jax_backward, bnfast::jax::backward);
XLA_FFI_DEFINE_HANDLER_SYMBOL(bnfast_jax_dropout, bnfast::jax::drop);

#pragma GCC visibility pop
