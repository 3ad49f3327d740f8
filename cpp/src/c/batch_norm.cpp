// The C face of batch normalization.
#include "bnfast/batch_norm.h"

#include "c/arguments.h"
#include "c/moments.h"
#include "c/norm_state.h"
#include "c/status.h"

using namespace bnfast::c;

bnfast_status bnfast_batch_norm_state_bytes(const bnfast_tensor* x, int32_t axis, size_t* bytes) {
    const char* const operation = "batch_norm";
    return status_of(operation, [&] {
        check_pointer(operation, "bytes", bytes);
        *bytes = state_bytes_of(bnfast::batch_norm_state_size(Tensor(operation, "x", x).required(), axis));
    });
}

bnfast_status bnfast_batch_norm(const bnfast_norm_inputs* inputs, const bnfast_norm_options* options,
                                const bnfast_tensor* y, void* state, size_t state_bytes) {
    const char* const operation = "batch_norm";
    return status_of(operation, [&] {
        const Inputs given(operation, inputs);
        const Tensor out(operation, "y", y);
        NewState filled(operation, given, state, state_bytes);
        bnfast::batch_norm(*given, options_of(operation, options), out.required(), *filled);
        filled.finish();
    });
}

bnfast_status bnfast_batch_norm_with_stats(const bnfast_norm_inputs* inputs, const bnfast_norm_options* options,
                                           const bnfast_moments* stats, const bnfast_tensor* y, void* state,
                                           size_t state_bytes) {
    const char* const operation = "batch_norm";
    return status_of(operation, [&] {
        const Inputs given(operation, inputs);
        const Tensor out(operation, "y", y);
        NewState filled(operation, given, state, state_bytes);
        bnfast::batch_norm_with_stats(*given, options_of(operation, options), moments_of(operation, "stats", stats),
                                      out.required(), *filled);
        filled.finish();
    });
}

bnfast_status bnfast_batch_norm_inference(const bnfast_norm_inputs* inputs, const bnfast_tensor* mean,
                                          const bnfast_tensor* var, const bnfast_norm_options* options,
                                          const bnfast_tensor* y) {
    const char* const operation = "batch_norm_inference";
    return status_of(operation, [&] {
        const Inputs given(operation, inputs);
        const Tensor given_mean(operation, "mean", mean), given_var(operation, "var", var), out(operation, "y", y);
        bnfast::batch_norm_inference(*given, given_mean.required(), given_var.required(),
                                     options_of(operation, options), out.required());
    });
}

bnfast_status bnfast_batch_norm_frozen(const bnfast_norm_inputs* inputs, const bnfast_tensor* mean,
                                       const bnfast_tensor* var, const bnfast_norm_options* options,
                                       const bnfast_tensor* y, void* state, size_t state_bytes) {
    const char* const operation = "batch_norm_frozen";
    return status_of(operation, [&] {
        const Inputs given(operation, inputs);
        const Tensor given_mean(operation, "mean", mean), given_var(operation, "var", var), out(operation, "y", y);
        NewState filled(operation, given, state, state_bytes);
        bnfast::batch_norm_frozen(*given, given_mean.required(), given_var.required(), options_of(operation, options),
                                  out.required(), *filled);
        filled.finish();
    });
}

bnfast_status bnfast_batch_norm_backward(const bnfast_norm_backward_inputs* inputs, const void* state,
                                         size_t state_bytes, const bnfast_norm_gradients* gradients) {
    const char* const operation = "batch_norm_backward";
    return status_of(operation, [&] {
        const BackwardInputs given(operation, inputs);
        const Gradients results(operation, gradients);
        bnfast::batch_norm_backward(*given, filled_state(operation, state, state_bytes), *results);
    });
}

bnfast_status bnfast_batch_norm_backward_sums(const bnfast_norm_backward_inputs* inputs, const void* state,
                                              size_t state_bytes, const bnfast_gradient_sums* sums) {
    const char* const operation = "batch_norm_backward_sums";
    return status_of(operation, [&] {
        const BackwardInputs given(operation, inputs);
        copy(operation, "sums", bnfast::batch_norm_backward_sums(*given, filled_state(operation, state, state_bytes)),
             sums);
    });
}

bnfast_status bnfast_batch_norm_backward_with_sums(const bnfast_norm_backward_inputs* inputs, const void* state,
                                                   size_t state_bytes, const bnfast_gradient_sums* total,
                                                   const bnfast_norm_gradients* gradients) {
    const char* const operation = "batch_norm_backward";
    return status_of(operation, [&] {
        const BackwardInputs given(operation, inputs);
        const Gradients results(operation, gradients);
        bnfast::batch_norm_backward_with_sums(*given, filled_state(operation, state, state_bytes),
                                              sums_of(operation, "sums", total), *results);
    });
}
