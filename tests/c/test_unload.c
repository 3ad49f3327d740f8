// The library can be loaded, used by several threads, and unloaded, again and again; nothing of it stays mapped.
#define _POSIX_C_SOURCE 200809L
#include <bnfast/bnfast.h>
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include "expect.h"

enum { ROWS = 1024, CHANNELS = 256, LOADS = 20 };  // large enough for all threads of the library

typedef bnfast_status Measure(const bnfast_tensor*, const bnfast_tensor*, int32_t, const bnfast_moments*);
typedef bnfast_status SetNumThreads(int64_t);

static float x[ROWS * CHANNELS];

// The address of a function, for which C99 has no cast from that of an object.
static void find(void* library, const char* name, void* function) {
    void* const symbol = dlsym(library, name);
    EXPECT(symbol != NULL);
    memcpy(function, &symbol, sizeof symbol);
}

static void* use(void* library) {
    static const int64_t shape[] = {ROWS, CHANNELS};
    const bnfast_tensor tensor = {.size = sizeof tensor, .data = x, .shape = shape, .ndim = 2};
    int64_t* const count = malloc(CHANNELS * sizeof *count);
    double* const numbers = malloc(3 * CHANNELS * sizeof *numbers);
    const bnfast_moments moments = {sizeof moments, CHANNELS,           count,
                                    numbers,        numbers + CHANNELS, numbers + 2 * CHANNELS};
    Measure* measure;
    find(library, "bnfast_measure", &measure);
    for (int i = 0; i < 10; ++i) EXPECT(measure(&tensor, NULL, 1, &moments) == BNFAST_OK);
    EXPECT(count[0] == ROWS);
    free(count);
    free(numbers);
    return NULL;
}

static int is_mapped(const char* name) {
    char line[1024];
    int found = 0;
    FILE* const maps = fopen("/proc/self/maps", "r");
    EXPECT(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL) found = found || strstr(line, name) != NULL;
    fclose(maps);
    return found;
}

int main(int argc, char** argv) {
    EXPECT(argc == 2);
    for (int i = 0; i < ROWS * CHANNELS; ++i) x[i] = (float)(i % 97);
    for (int load = 0; load < LOADS; ++load) {
        void* const library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        EXPECT(library != NULL);
        EXPECT(is_mapped("libbnfast"));
        SetNumThreads* set_num_threads;
        find(library, "bnfast_set_num_threads", &set_num_threads);
        EXPECT(set_num_threads(4) == BNFAST_OK);
        pthread_t other;
        EXPECT(pthread_create(&other, NULL, use, library) == 0);
        use(library);
        EXPECT(pthread_join(other, NULL) == 0);
        EXPECT(dlclose(library) == 0);
#ifdef __GLIBC__  // musl's dlclose unloads nothing
        EXPECT(!is_mapped("libbnfast"));
#endif
    }
    puts("unloaded");
    return 0;
}
