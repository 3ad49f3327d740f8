// Times batch norm of a (32, 64) tensor through the C interface: prints microseconds a call, the best of several loops.
#include <bnfast/bnfast.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { kRows = 32, kChannels = 64, kCalls = 20000, kLoops = 9 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void check(bnfast_status status) {
    if (status == BNFAST_OK) return;
    fprintf(stderr, "%s\n", bnfast_last_error());
    exit(1);
}

int main(void) {
    static float x_values[kRows * kChannels], y_values[kRows * kChannels];
    for (int i = 0; i < kRows * kChannels; ++i) x_values[i] = (float)((i * 7919) % 1000) / 1000.0F;
    const int64_t shape[] = {kRows, kChannels};
    const bnfast_tensor x = {.size = sizeof x, .data = x_values, .shape = shape, .ndim = 2, .dtype = BNFAST_FLOAT32};
    bnfast_tensor y = x;
    y.data = y_values;
    bnfast_norm_options options;
    check(bnfast_norm_options_init(&options, sizeof options));
    const bnfast_norm_inputs inputs = {.size = sizeof inputs, .x = &x};
    size_t bytes;
    check(bnfast_batch_norm_state_bytes(&x, 1, &bytes));
    void* const state = malloc(bytes);
    double best = 1e30;
    for (int loop = 0; loop < kLoops; ++loop) {
        const double start = now();
        for (int call = 0; call < kCalls; ++call) check(bnfast_batch_norm(&inputs, &options, &y, state, bytes));
        const double each = (now() - start) / kCalls;
        if (each < best) best = each;
    }
    printf("%.3f\n", best);
    free(state);
    return 0;
}
