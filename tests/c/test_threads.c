// Threads that call at once get the same bits, and each has its own last error.
#include <bnfast/bnfast.h>
#include <pthread.h>
#include <string.h>

#include "expect.h"

enum { ROWS = 300, CHANNELS = 400, SIZE = ROWS * CHANNELS, THREADS = 8, CALLS = 20 };

static const int64_t shape[] = {ROWS, CHANNELS};
static float x[SIZE], expected[SIZE];

// y = relu(batch_norm(x)), in memory of the caller's.
static void normalise(float* y) {
    const bnfast_tensor in = {.size = sizeof in, .data = x, .shape = shape, .ndim = 2};
    bnfast_tensor out = in;
    out.data = y;
    const bnfast_norm_inputs inputs = {.size = sizeof inputs, .x = &in};
    bnfast_norm_options options;
    EXPECT(bnfast_norm_options_init(&options, sizeof options) == BNFAST_OK);
    options.activation = BNFAST_RELU;
    size_t bytes;
    EXPECT(bnfast_batch_norm_state_bytes(&in, 1, &bytes) == BNFAST_OK);
    void* const state = malloc(bytes);
    EXPECT(bnfast_batch_norm(&inputs, &options, &out, state, bytes) == BNFAST_OK);
    free(state);
}

static void* work(void* number) {
    const int64_t wrong = -1 - *(const int*)number;
    char message[32];
    snprintf(message, sizeof message, "n is %d,", (int)wrong);
    float* const y = malloc(SIZE * sizeof *y);
    EXPECT(bnfast_set_num_threads(wrong) == BNFAST_VALUE_ERROR);
    for (int i = 0; i < CALLS; ++i) {
        normalise(y);
        EXPECT(memcmp(y, expected, sizeof expected) == 0);
    }
    EXPECT(strstr(bnfast_last_error(), message) != NULL);
    free(y);
    return NULL;
}

int main(void) {
    for (int i = 0; i < SIZE; ++i) x[i] = (float)((i * 7919) % 1000) / 500.0F;
    normalise(expected);
    pthread_t threads[THREADS];
    int numbers[THREADS];
    for (int t = 0; t < THREADS; ++t) {
        numbers[t] = t;
        EXPECT(pthread_create(&threads[t], NULL, work, &numbers[t]) == 0);
    }
    for (int t = 0; t < THREADS; ++t) EXPECT(pthread_join(threads[t], NULL) == 0);
    puts("the same bits");
    return 0;
}
