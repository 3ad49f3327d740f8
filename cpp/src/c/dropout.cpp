// The C face of dropout.
#include "bnfast/dropout.h"

#include <string>

#include "c/arguments.h"
#include "c/status.h"

using bnfast::DropoutMode;
using namespace bnfast::c;

bnfast_status bnfast_dropout(const bnfast_tensor* x, const bnfast_dropout_options* options, const bnfast_tensor* y) {
    const char* const operation = "dropout";
    return status_of(operation, [&] {
        const Tensor in(operation, "x", x), out(operation, "y", y);
        bnfast::dropout(in.required(), options_of(operation, options), out.required());
    });
}

bnfast_status bnfast_dropout_backward(const bnfast_tensor* dy, const bnfast_dropout_options* options,
                                      const bnfast_tensor* dx) {
    const char* const operation = "dropout_backward";
    return status_of(operation, [&] {
        const Tensor in(operation, "dy", dy), out(operation, "dx", dx);
        bnfast::dropout_backward(in.required(), options_of(operation, options), out.required());
    });
}

bnfast_status bnfast_dropout_inference(const bnfast_tensor* x, double rate, int32_t mode, const bnfast_tensor* y) {
    const char* const operation = "dropout_inference";
    return status_of(operation, [&] {
        const Tensor in(operation, "x", x), out(operation, "y", y);
        bnfast::dropout_inference(in.required(), rate, static_cast<DropoutMode>(mode), out.required());
    });
}

bnfast_status bnfast_dropout_inference_backward(const bnfast_tensor* dy, double rate, int32_t mode,
                                                const bnfast_tensor* dx) {
    const char* const operation = "dropout_inference_backward";
    return status_of(operation, [&] {
        const Tensor in(operation, "dy", dy), out(operation, "dx", dx);
        bnfast::dropout_inference_backward(in.required(), rate, static_cast<DropoutMode>(mode), out.required());
    });
}

bnfast_status bnfast_dropout_mask(const int64_t* shape, int32_t ndim, const bnfast_dropout_options* options,
                                  uint8_t* mask) {
    const char* const operation = "dropout_mask";
    return status_of(operation, [&] {
        if (ndim < 0 || ndim > bnfast::kMaxDims) {
            fail(operation, "ndim is " + std::to_string(ndim) + ", expected 0 .. " + std::to_string(bnfast::kMaxDims));
        }
        if (ndim > 0) check_pointer(operation, "shape", shape);
        bnfast::dropout_mask({shape, shape + ndim}, options_of(operation, options), mask);
    });
}
