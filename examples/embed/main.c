// A Transformer's h = residual + dropout(x), y = layer_norm(h), in C99.
#include <bnfast/bnfast.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 128, FEATURES = 256 };

static float x[TOKENS * FEATURES], residual[TOKENS * FEATURES], y[TOKENS * FEATURES], h[TOKENS * FEATURES];

static bnfast_tensor tensor(void* data) {
    static const int64_t shape[] = {TOKENS, FEATURES};
    const bnfast_tensor result = {.size = sizeof result, .data = data, .shape = shape, .ndim = 2};
    return result;  // of float32 in C order: what is not named is zero
}

static void check(bnfast_status status) {
    if (status == BNFAST_OK) return;
    fprintf(stderr, "%s\n", bnfast_last_error());
    exit(1);
}

int main(void) {
    for (int i = 0; i < TOKENS * FEATURES; ++i) x[i] = (float)(i % 97);
    const bnfast_tensor in = tensor(x), before = tensor(residual), out = tensor(y), stream = tensor(h);
    const bnfast_norm_inputs inputs = {.size = sizeof inputs, .x = &in, .residual = &before};
    bnfast_norm_options options;
    check(bnfast_norm_options_init(&options, sizeof options));
    options.axis = -1;
    options.dropout = 0.1;
    options.seed = 42;

    size_t bytes;
    check(bnfast_layer_norm_state_bytes(&in, options.axis, &bytes));
    void* const state = malloc(bytes);  // what bnfast_norm_backward will need
    check(bnfast_layer_norm(&inputs, &options, &out, &stream, state, bytes));
    printf("h begins with %g, and y with %g\n", h[1], y[1]);
    free(state);
    return 0;
}
