// The C face of bnfast: C99, for C and for every language that can call C. It stays the same within an ABI version.
//
// - Every function that can fail returns a bnfast_status, and bnfast_last_error() says why it did. Bad arguments are
//   found before anything is written. No exception leaves a function, and none ends the program.
// - Every struct begins with its own size in bytes: {.size = sizeof(bnfast_tensor), ...}. Later versions may add fields
//   at the end, in which zero means what was done before. So a program runs with later libraries, and with earlier ones
//   as long as it leaves the fields zero that they lack.
// - All memory is the caller's: tensors, results, state. No function keeps a pointer after it has returned.
// - Threads may call functions at once, as long as none writes what another one uses.
//
// What each function computes is said at the function of the same name in bnfast/batch_norm.h, norms.h, dropout.h,
// moments.h and runtime.h: this is those headers' C++ in plain structs. Pointers to absent tensors are NULL.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "bnfast/export.h"

#ifdef __cplusplus
extern "C" {
#endif

// --- status and errors ------------------------------------------------------------------------------------------

typedef enum bnfast_status {
    BNFAST_OK = 0,
    BNFAST_VALUE_ERROR = 1,    // a wrong value, shape, size or overlap
    BNFAST_TYPE_ERROR = 2,     // a wrong dtype
    BNFAST_OUT_OF_MEMORY = 3,  // memory to work with could not be had
    BNFAST_INTERNAL_ERROR = 4  // anything else: please report it
} bnfast_status;

// What the calling thread's last failed call found wrong, as "batch_norm: gamma has shape (3,), expected (4,) ...", and
// "" before there was one. The text is good until the thread's next failed call.
BNFAST_API const char* bnfast_last_error(void);

// --- tensors ----------------------------------------------------------------------------------------------------

enum bnfast_dtype {
    BNFAST_FLOAT32 = 0,
    BNFAST_FLOAT64 = 1,
    BNFAST_FLOAT16 = 2,
    BNFAST_BFLOAT16 = 3,
    BNFAST_BOOL = 4  // one byte an element, of which any but zero is true; of `where` alone
};

enum bnfast_device { BNFAST_CPU = 0, BNFAST_CUDA = 1 };

// An array: `ndim` lengths, at most 64, and as many distances in bytes, which may be zero or negative. `data` is
// written through only where an argument is a result, and may be NULL where the tensor has no elements.
typedef struct bnfast_tensor {
    size_t size;  // sizeof(bnfast_tensor)
    void* data;
    const int64_t* shape;
    const int64_t* strides;  // in bytes; NULL: dense, the last dimension's elements side by side (C order)
    int32_t ndim;
    int32_t dtype;         // a bnfast_dtype
    int32_t device;        // a bnfast_device, the same for all tensors of a call
    int32_t device_index;  // which of several
    void* stream;          // CUDA: the cudaStream_t on which the call is enqueued, that of x; NULL: the default stream
} bnfast_tensor;

// --- normalization ----------------------------------------------------------------------------------------------

enum bnfast_activation {
    BNFAST_NO_ACTIVATION = 0,
    BNFAST_RELU = 1,
    BNFAST_LEAKY_RELU = 2,
    BNFAST_SIGMOID = 3,
    BNFAST_TANH = 4,
    BNFAST_SILU = 5,
    BNFAST_GELU = 6,
    BNFAST_ELU = 7
};

enum bnfast_eps_placement { BNFAST_EPS_VAR = 0, BNFAST_EPS_STD = 1 };  // sqrt(var + eps); sqrt(var) + eps

// What is computed. Fill it by bnfast_norm_options_init, and change what you need.
typedef struct bnfast_norm_options {
    size_t size;              // sizeof(bnfast_norm_options)
    double eps;               // 1e-5
    double activation_slope;  // 0.01: of leaky ReLU below zero
    double dropout;           // 0: the rate; behind the activation, and in layer and RMS norm before the norm
    uint64_t seed;            // 0: of the dropout
    uint64_t offset;          // 0: names an independent stream of the same seed
    int32_t axis;  // 1: of the channels; in layer and RMS norm the first of the normalised axes. -1 is the last
    int32_t eps_placement;  // BNFAST_EPS_VAR
    int32_t activation;     // BNFAST_NO_ACTIVATION
    int32_t reserved;       // 0: keeps the struct free of padding
} bnfast_norm_options;

// Fills the options with the defaults above. `size` is sizeof(bnfast_norm_options), as your program knows it.
BNFAST_API bnfast_status bnfast_norm_options_init(bnfast_norm_options* options, size_t size);

// What forward reads.
typedef struct bnfast_norm_inputs {
    size_t size;  // sizeof(bnfast_norm_inputs)
    const bnfast_tensor* x;
    const bnfast_tensor* gamma;     // float32 or float64, one entry a channel; in layer and RMS norm the shape of the
    const bnfast_tensor* beta;      // normalised axes. NULL: 1 and 0
    const bnfast_tensor* residual;  // like x, added before the activation; in layer and RMS norm before the norm
    const bnfast_tensor* where;     // bool, broadcast over x without its channels; batch norm only
    void* state_numbers;            // CUDA: memory of the device for the numbers of the state, see there
} bnfast_norm_inputs;

// What backward reads: x, residual and where as forward had them, with what they held then. Where y was written over x,
// x is y; after layer and RMS norm x is h, and residual is NULL.
typedef struct bnfast_norm_backward_inputs {
    size_t size;  // sizeof(bnfast_norm_backward_inputs)
    const bnfast_tensor* x;
    const bnfast_tensor* residual;
    const bnfast_tensor* where;
    const bnfast_tensor* dy;
    const bnfast_tensor* dh;  // the gradient that reaches h by another way; layer and RMS norm only
} bnfast_norm_backward_inputs;

// What backward writes. dx may be dy's memory. dresidual is there if forward had a residual; after layer and RMS norm
// only if it had dropout, too: dx is the gradient of both without. dgamma and dbeta, a number for each entry of gamma
// and beta, are needed even where these were NULL; where x is on a CUDA device, they are memory of it.
typedef struct bnfast_norm_gradients {
    size_t size;  // sizeof(bnfast_norm_gradients)
    const bnfast_tensor* dx;
    const bnfast_tensor* dresidual;
    double* dgamma;
    double* dbeta;
} bnfast_norm_gradients;

// Per-channel statistics, in arrays of the caller's. The mean is mean + mean_low, which holds what has no room in the
// first; m2 is the sum of squared deviations: the variance is m2 / count.
typedef struct bnfast_moments {
    size_t size;       // sizeof(bnfast_moments)
    int64_t channels;  // entries of each array
    int64_t* count;
    double* mean;
    double* mean_low;
    double* m2;
} bnfast_moments;

// Per-channel sums of dz, the gradient before the activation, and of dz * (x - mean), in arrays of the caller's.
typedef struct bnfast_gradient_sums {
    size_t size;       // sizeof(bnfast_gradient_sums)
    int64_t channels;  // entries of each array
    int64_t* count;
    double* sum_dy;
    double* sum_dy_xmu;
} bnfast_gradient_sums;

// --- state ------------------------------------------------------------------------------------------------------

// A forward call fills `state`, and backward reads it: memory of the caller's, aligned as for double, of as many bytes
// as these functions say. It holds no pointers: it may be copied, moved, and stored for programs with the same version
// of the library on the same kind of machine. RMS norm's is as large as layer norm's.
//
// Where x is on a CUDA device, the numbers of the state are in memory of that device: `inputs->state_numbers`, of as
// many bytes. The state then holds their address, and can be used as long as they are there, and as the stream of x is.
BNFAST_API bnfast_status bnfast_batch_norm_state_bytes(const bnfast_tensor* x, int32_t axis, size_t* bytes);
BNFAST_API bnfast_status bnfast_group_norm_state_bytes(const bnfast_tensor* x, int64_t groups, int32_t axis,
                                                       size_t* bytes);
BNFAST_API bnfast_status bnfast_instance_norm_state_bytes(const bnfast_tensor* x, int32_t axis, size_t* bytes);
BNFAST_API bnfast_status bnfast_layer_norm_state_bytes(const bnfast_tensor* x, int32_t axis, size_t* bytes);

// The statistics that forward normalised with, for running averages. `moments` has arrays for them: one entry for each
// channel; of a group norm each sample and group; of a layer norm each index of the axes before the normalised ones.
BNFAST_API bnfast_status bnfast_norm_state_moments(const void* state, size_t state_bytes,
                                                   const bnfast_moments* moments);

// --- batch norm -------------------------------------------------------------------------------------------------

// y has x's shape and dtype, and may be x's memory where bnfast/batch_norm.h says so.
BNFAST_API bnfast_status bnfast_batch_norm(const bnfast_norm_inputs* inputs, const bnfast_norm_options* options,
                                           const bnfast_tensor* y, void* state, size_t state_bytes);
// With given statistics, such as those of a batch that several processes share.
BNFAST_API bnfast_status bnfast_batch_norm_with_stats(const bnfast_norm_inputs* inputs,
                                                      const bnfast_norm_options* options, const bnfast_moments* stats,
                                                      const bnfast_tensor* y, void* state, size_t state_bytes);
// With a running mean and variance, float32 or float64, one entry a channel.
BNFAST_API bnfast_status bnfast_batch_norm_inference(const bnfast_norm_inputs* inputs, const bnfast_tensor* mean,
                                                     const bnfast_tensor* var, const bnfast_norm_options* options,
                                                     const bnfast_tensor* y);
// The same for training: backward takes mean and var for constants.
BNFAST_API bnfast_status bnfast_batch_norm_frozen(const bnfast_norm_inputs* inputs, const bnfast_tensor* mean,
                                                  const bnfast_tensor* var, const bnfast_norm_options* options,
                                                  const bnfast_tensor* y, void* state, size_t state_bytes);
BNFAST_API bnfast_status bnfast_batch_norm_backward(const bnfast_norm_backward_inputs* inputs, const void* state,
                                                    size_t state_bytes, const bnfast_norm_gradients* gradients);
// Where x is one worker's part of a batch: first each worker's sums, then the gradients by the sums over all workers.
BNFAST_API bnfast_status bnfast_batch_norm_backward_sums(const bnfast_norm_backward_inputs* inputs, const void* state,
                                                         size_t state_bytes, const bnfast_gradient_sums* sums);
BNFAST_API bnfast_status bnfast_batch_norm_backward_with_sums(const bnfast_norm_backward_inputs* inputs,
                                                              const void* state, size_t state_bytes,
                                                              const bnfast_gradient_sums* total,
                                                              const bnfast_norm_gradients* gradients);

// --- statistics that merge --------------------------------------------------------------------------------------

// Measures x. `where` may be NULL.
BNFAST_API bnfast_status bnfast_measure(const bnfast_tensor* x, const bnfast_tensor* where, int32_t axis,
                                        const bnfast_moments* moments);
// Makes `into` describe the elements of both parts.
BNFAST_API bnfast_status bnfast_merge_moments(const bnfast_moments* into, const bnfast_moments* other);
BNFAST_API bnfast_status bnfast_merge_gradient_sums(const bnfast_gradient_sums* into,
                                                    const bnfast_gradient_sums* other);

// --- norms of a sample's own ------------------------------------------------------------------------------------

BNFAST_API bnfast_status bnfast_group_norm(const bnfast_norm_inputs* inputs, int64_t groups,
                                           const bnfast_norm_options* options, const bnfast_tensor* y, void* state,
                                           size_t state_bytes);
BNFAST_API bnfast_status bnfast_instance_norm(const bnfast_norm_inputs* inputs, const bnfast_norm_options* options,
                                              const bnfast_tensor* y, void* state, size_t state_bytes);
// `h` is residual + dropout(x), a result like y, and NULL where there is neither.
BNFAST_API bnfast_status bnfast_layer_norm(const bnfast_norm_inputs* inputs, const bnfast_norm_options* options,
                                           const bnfast_tensor* y, const bnfast_tensor* h, void* state,
                                           size_t state_bytes);
BNFAST_API bnfast_status bnfast_rms_norm(const bnfast_norm_inputs* inputs, const bnfast_norm_options* options,
                                         const bnfast_tensor* y, const bnfast_tensor* h, void* state,
                                         size_t state_bytes);
// Gradients of any of these.
BNFAST_API bnfast_status bnfast_norm_backward(const bnfast_norm_backward_inputs* inputs, const void* state,
                                              size_t state_bytes, const bnfast_norm_gradients* gradients);

// --- dropout ----------------------------------------------------------------------------------------------------

enum bnfast_dropout_mode {
    BNFAST_DROPOUT_INVERTED = 0,  // kept elements are scaled by 1 / (1 - rate)
    BNFAST_DROPOUT_CLASSIC = 1,   // they are not
    BNFAST_DROPOUT_ALPHA = 2      // for SELU: mean 0 and variance 1 stay
};

// The mask is a function of seed, offset and the index of an element.
typedef struct bnfast_dropout_options {
    size_t size;  // sizeof(bnfast_dropout_options)
    double rate;  // the probability that an element is dropped
    uint64_t seed;
    uint64_t offset;                // names an independent stream of the same seed
    const int32_t* broadcast_axes;  // along these, all elements share one of the mask
    int32_t num_broadcast_axes;
    int32_t mode;  // a bnfast_dropout_mode
} bnfast_dropout_options;

// y has x's shape and dtype, and may be its memory.
BNFAST_API bnfast_status bnfast_dropout(const bnfast_tensor* x, const bnfast_dropout_options* options,
                                        const bnfast_tensor* y);
// With the options of the forward call. dx may be dy's memory.
BNFAST_API bnfast_status bnfast_dropout_backward(const bnfast_tensor* dy, const bnfast_dropout_options* options,
                                                 const bnfast_tensor* dx);
// What a network without dropout computes in its place, and the gradient of that.
BNFAST_API bnfast_status bnfast_dropout_inference(const bnfast_tensor* x, double rate, int32_t mode,
                                                  const bnfast_tensor* y);
BNFAST_API bnfast_status bnfast_dropout_inference_backward(const bnfast_tensor* dy, double rate, int32_t mode,
                                                           const bnfast_tensor* dx);
// One byte for each element of a dense array of that shape: 1 where it is kept.
BNFAST_API bnfast_status bnfast_dropout_mask(const int64_t* shape, int32_t ndim, const bnfast_dropout_options* options,
                                             uint8_t* mask);

// --- the library and the machine --------------------------------------------------------------------------------

// The version of this interface: of a header, and of the library. A program runs with the library that its header came
// with, and with later ones whose number is the same.
#define BNFAST_ABI_VERSION 1
BNFAST_API int32_t bnfast_abi_version(void);
BNFAST_API const char* bnfast_version(void);  // of the library, as "0.1.0"

// The threads that calls may use, for the whole process. Results do not depend on it.
BNFAST_API int32_t bnfast_num_threads(void);
BNFAST_API bnfast_status bnfast_set_num_threads(int64_t n);
BNFAST_API int32_t bnfast_usable_cpus(void);
BNFAST_API const char* bnfast_threading_name(void);

// The SIMD builds of the kernels that this machine can run, best first. Results are the same for all of them.
BNFAST_API int32_t bnfast_num_targets(void);
BNFAST_API const char* bnfast_target_name(int32_t index);  // NULL where there is none of that index
BNFAST_API const char* bnfast_active_target(void);
BNFAST_API bnfast_status bnfast_select_target(const char* name);

#ifdef __cplusplus
}
#endif
