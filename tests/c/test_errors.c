// Bad calls of the C face: each is refused, with a message, before anything is written.
#include <bnfast/bnfast.h>
#include <math.h>
#include <string.h>

#include "expect.h"

enum { ROWS = 4, CHANNELS = 3, STATE_NUMBERS = 200 };

static const int64_t shape[] = {ROWS, CHANNELS}, channels[] = {CHANNELS}, rows[] = {ROWS};

// A call of batch norm that is right, until a test spoils it.
static float x[ROWS * CHANNELS], y[ROWS * CHANNELS], gamma[CHANNELS];
static double state[STATE_NUMBERS], count_and_more[4 * CHANNELS];
static bnfast_tensor tensor_x, tensor_y, tensor_gamma;
static bnfast_norm_inputs inputs;
static bnfast_norm_options options;

static bnfast_tensor dense(void* data, const int64_t* lengths, int32_t ndim) {
    const bnfast_tensor tensor = {.size = sizeof tensor, .data = data, .shape = lengths, .ndim = ndim};
    return tensor;
}

static void prepare(void) {
    for (int i = 0; i < ROWS * CHANNELS; ++i) {
        x[i] = (float)(i * i);
        y[i] = -1;
    }
    for (int c = 0; c < CHANNELS; ++c) gamma[c] = 1;
    tensor_x = dense(x, shape, 2);
    tensor_y = dense(y, shape, 2);
    tensor_gamma = dense(gamma, channels, 1);
    memset(&inputs, 0, sizeof inputs);
    inputs.size = sizeof inputs;
    inputs.x = &tensor_x;
    inputs.gamma = &tensor_gamma;
    EXPECT(bnfast_norm_options_init(&options, sizeof options) == BNFAST_OK);
}

static bnfast_status forward(void) { return bnfast_batch_norm(&inputs, &options, &tensor_y, state, sizeof state); }

static void expect_error(bnfast_status got, bnfast_status want, const char* message) {
    if (got != want || strstr(bnfast_last_error(), message) == NULL) {
        fprintf(stderr, "got %d: %s\nwant %d: %s\n", (int)got, bnfast_last_error(), (int)want, message);
        exit(1);
    }
    for (int i = 0; i < ROWS * CHANNELS; ++i) EXPECT(y[i] == -1);
    prepare();
}

static void check_sizes_of_structs(void) {
    inputs.size = 8;
    expect_error(forward(), BNFAST_VALUE_ERROR, "batch_norm: inputs.size is 8, expected 56");
    options.size = 0;
    expect_error(forward(), BNFAST_VALUE_ERROR, "batch_norm: options.size is 0");
    tensor_x.size = (size_t)-1;
    expect_error(forward(), BNFAST_VALUE_ERROR, "batch_norm: x.size is 18446744073709551615");
    expect_error(bnfast_norm_options_init(&options, sizeof options - 1), BNFAST_VALUE_ERROR, "size is 63, expected 64");

    // The structs of a later header: longer, and right as long as nothing is in what this library does not know.
    struct {
        bnfast_norm_inputs known;
        void* later;
    } longer = {inputs, NULL};
    longer.known.size = sizeof longer;
    EXPECT(bnfast_batch_norm(&longer.known, &options, &tensor_y, state, sizeof state) == BNFAST_OK);
    prepare();
    longer.later = y;
    expect_error(bnfast_batch_norm(&longer.known, &options, &tensor_y, state, sizeof state), BNFAST_VALUE_ERROR,
                 "zeros in what this version of the library does not know");
}

static void check_null(void) {
    expect_error(bnfast_batch_norm(NULL, &options, &tensor_y, state, sizeof state), BNFAST_VALUE_ERROR,
                 "inputs is NULL");
    expect_error(bnfast_batch_norm(&inputs, NULL, &tensor_y, state, sizeof state), BNFAST_VALUE_ERROR,
                 "options is NULL");
    expect_error(bnfast_batch_norm(&inputs, &options, NULL, state, sizeof state), BNFAST_VALUE_ERROR, "y is NULL");
    expect_error(bnfast_batch_norm(&inputs, &options, &tensor_y, NULL, 0), BNFAST_VALUE_ERROR, "state is NULL");
    inputs.x = NULL;
    expect_error(forward(), BNFAST_VALUE_ERROR, "batch_norm: x is NULL");
    tensor_x.data = NULL;
    expect_error(forward(), BNFAST_VALUE_ERROR, "x has no data");
    tensor_x.shape = NULL;
    expect_error(forward(), BNFAST_VALUE_ERROR, "x has no shape");
    expect_error(bnfast_batch_norm_state_bytes(&tensor_x, 1, NULL), BNFAST_VALUE_ERROR, "bytes is NULL");
    expect_error(bnfast_batch_norm_backward(NULL, state, sizeof state, NULL), BNFAST_VALUE_ERROR, "inputs is NULL");
    expect_error(bnfast_dropout(&tensor_x, NULL, &tensor_y), BNFAST_VALUE_ERROR, "dropout: options is NULL");
    expect_error(bnfast_dropout_mask(NULL, 2, NULL, NULL), BNFAST_VALUE_ERROR, "dropout_mask: shape is NULL");
    expect_error(bnfast_select_target(NULL), BNFAST_VALUE_ERROR, "name is NULL");
    const bnfast_moments none = {sizeof none, CHANNELS, NULL, NULL, NULL, NULL};
    expect_error(bnfast_measure(&tensor_x, NULL, 1, &none), BNFAST_VALUE_ERROR, "an array of moments is NULL");
}

static void check_values(void) {
    tensor_x.dtype = 17;
    expect_error(forward(), BNFAST_TYPE_ERROR, "batch_norm: x has dtype number 17");
    tensor_gamma.dtype = BNFAST_FLOAT16;
    expect_error(forward(), BNFAST_TYPE_ERROR, "gamma has dtype float16");
    tensor_gamma.shape = rows;
    expect_error(forward(), BNFAST_VALUE_ERROR, "gamma has shape (4,), expected (3,)");
    tensor_x.ndim = -1;
    expect_error(forward(), BNFAST_VALUE_ERROR, "-1 dimensions");
    tensor_x.ndim = 65;
    expect_error(forward(), BNFAST_VALUE_ERROR, "65 dimensions");
    tensor_x.device = BNFAST_CUDA;
    expect_error(forward(), BNFAST_VALUE_ERROR, "cuda:0");
    options.axis = 2;
    expect_error(forward(), BNFAST_VALUE_ERROR, "axis is 2");
    options.eps = NAN;
    expect_error(forward(), BNFAST_VALUE_ERROR, "eps is nan");
    options.activation = 8;
    expect_error(forward(), BNFAST_VALUE_ERROR, "activation is number 8");
    options.reserved = 1;
    expect_error(forward(), BNFAST_VALUE_ERROR, "options.reserved is 1");
    expect_error(bnfast_set_num_threads(0), BNFAST_VALUE_ERROR, "n is 0");
    expect_error(bnfast_select_target("pdp11"), BNFAST_VALUE_ERROR, "name is 'pdp11'");
    const bnfast_dropout_options dropout = {.size = sizeof dropout, .rate = 0.5, .num_broadcast_axes = -1};
    expect_error(bnfast_dropout(&tensor_x, &dropout, &tensor_y), BNFAST_VALUE_ERROR, "num_broadcast_axes is -1");
}

static void check_state(void) {
    double dgamma[CHANNELS], dbeta[CHANNELS];
    const bnfast_norm_backward_inputs backward = {.size = sizeof backward, .x = &tensor_x, .dy = &tensor_x};
    const bnfast_norm_gradients gradients = {sizeof gradients, &tensor_y, NULL, dgamma, dbeta};
    memset(state, 0, sizeof state);
    expect_error(bnfast_batch_norm_backward(&backward, state, sizeof state, &gradients), BNFAST_VALUE_ERROR,
                 "expected one that a forward call filled");
    size_t bytes = 0;
    EXPECT(bnfast_batch_norm_state_bytes(&tensor_x, 1, &bytes) == BNFAST_OK);
    EXPECT(bytes <= sizeof state);
    expect_error(bnfast_batch_norm(&inputs, &options, &tensor_y, state, bytes - 8), BNFAST_VALUE_ERROR, "room for");
    expect_error(bnfast_batch_norm(&inputs, &options, &tensor_y, state, 8), BNFAST_VALUE_ERROR, "state_bytes is 8");
    expect_error(bnfast_batch_norm(&inputs, &options, &tensor_y, (char*)state + 1, bytes), BNFAST_VALUE_ERROR,
                 "state is not aligned");

    EXPECT(bnfast_batch_norm(&inputs, &options, &tensor_y, state, bytes) == BNFAST_OK);
    prepare();
    const bnfast_moments two = {sizeof two, 2, (int64_t*)count_and_more, state, state, state};
    expect_error(bnfast_norm_state_moments(state, bytes, &two), BNFAST_VALUE_ERROR,
                 "moments.channels is 2, expected 3");
    expect_error(bnfast_norm_backward(&backward, state, bytes, &gradients), BNFAST_VALUE_ERROR,
                 "state is that of a batch norm");
    EXPECT(bnfast_batch_norm_backward(&backward, state, bytes, &gradients) == BNFAST_OK);
    EXPECT(y[0] != -1);
}

int main(void) {
    EXPECT(strcmp(bnfast_last_error(), "") == 0);
    prepare();
    check_sizes_of_structs();
    check_null();
    check_values();
    check_state();
    puts("refused what had to be");
    return 0;
}
