// The C face of the normalizations whose statistics are a sample's own.
#include "bnfast/norms.h"

#include "c/arguments.h"
#include "c/norm_state.h"
#include "c/status.h"

using namespace bnfast::c;

namespace {

// Sets `bytes` to those of a state of `size(x)` numbers.
template <class Size>
bnfast_status give_state_bytes(const char* operation, const bnfast_tensor* x, size_t* bytes, const Size& size) {
    return status_of(operation, [&] {
        check_pointer(operation, "bytes", bytes);
        *bytes = state_bytes_of(size(Tensor(operation, "x", x).required()));
    });
}

using LastAxesNorm = void(const bnfast::NormInputs&, const bnfast::NormOptions&, const bnfast::TensorView&,
                          const std::optional<bnfast::TensorView>&, bnfast::NormState&);

bnfast_status normalise_last_axes(const char* operation, LastAxesNorm& norm, const bnfast_norm_inputs* inputs,
                                  const bnfast_norm_options* options, const bnfast_tensor* y, const bnfast_tensor* h,
                                  void* state, size_t state_bytes) {
    return status_of(operation, [&] {
        const Inputs given(operation, inputs);
        const Tensor out(operation, "y", y), stream(operation, "h", h);
        NewState filled(operation, given, state, state_bytes);
        norm(*given, options_of(operation, options), out.required(), stream.optional(), *filled);
        filled.finish();
    });
}

}  // namespace

bnfast_status bnfast_group_norm_state_bytes(const bnfast_tensor* x, int64_t groups, int32_t axis, size_t* bytes) {
    return give_state_bytes("group_norm", x, bytes, [&](const bnfast::TensorView& view) {
        return bnfast::group_norm_state_size(view, groups, axis);
    });
}

bnfast_status bnfast_instance_norm_state_bytes(const bnfast_tensor* x, int32_t axis, size_t* bytes) {
    return give_state_bytes("instance_norm", x, bytes, [&](const bnfast::TensorView& view) {
        return bnfast::instance_norm_state_size(view, axis);
    });
}

bnfast_status bnfast_layer_norm_state_bytes(const bnfast_tensor* x, int32_t axis, size_t* bytes) {
    return give_state_bytes("layer_norm", x, bytes,
                            [&](const bnfast::TensorView& view) { return bnfast::layer_norm_state_size(view, axis); });
}

bnfast_status bnfast_group_norm(const bnfast_norm_inputs* inputs, int64_t groups, const bnfast_norm_options* options,
                                const bnfast_tensor* y, void* state, size_t state_bytes) {
    const char* const operation = "group_norm";
    return status_of(operation, [&] {
        const Inputs given(operation, inputs);
        const Tensor out(operation, "y", y);
        NewState filled(operation, given, state, state_bytes);
        bnfast::group_norm(*given, groups, options_of(operation, options), out.required(), *filled);
        filled.finish();
    });
}

bnfast_status bnfast_instance_norm(const bnfast_norm_inputs* inputs, const bnfast_norm_options* options,
                                   const bnfast_tensor* y, void* state, size_t state_bytes) {
    const char* const operation = "instance_norm";
    return status_of(operation, [&] {
        const Inputs given(operation, inputs);
        const Tensor out(operation, "y", y);
        NewState filled(operation, given, state, state_bytes);
        bnfast::instance_norm(*given, options_of(operation, options), out.required(), *filled);
        filled.finish();
    });
}

bnfast_status bnfast_layer_norm(const bnfast_norm_inputs* inputs, const bnfast_norm_options* options,
                                const bnfast_tensor* y, const bnfast_tensor* h, void* state, size_t state_bytes) {
    return normalise_last_axes("layer_norm", bnfast::layer_norm, inputs, options, y, h, state, state_bytes);
}

bnfast_status bnfast_rms_norm(const bnfast_norm_inputs* inputs, const bnfast_norm_options* options,
                              const bnfast_tensor* y, const bnfast_tensor* h, void* state, size_t state_bytes) {
    return normalise_last_axes("rms_norm", bnfast::rms_norm, inputs, options, y, h, state, state_bytes);
}

bnfast_status bnfast_norm_backward(const bnfast_norm_backward_inputs* inputs, const void* state, size_t state_bytes,
                                   const bnfast_norm_gradients* gradients) {
    const char* const operation = "norm_backward";
    return status_of(operation, [&] {
        const BackwardInputs given(operation, inputs);
        const Gradients results(operation, gradients);
        bnfast::norm_backward(*given, filled_state(operation, state, state_bytes), *results);
    });
}
