// What the tests of the C face share: expectations, and a batch with everything that a call needs.
#pragma once

#include <bnfast/bnfast.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(condition)                                                                            \
    do {                                                                                             \
        if (!(condition)) {                                                                          \
            fprintf(stderr, "%s:%d: %s; last error: %s\n", __FILE__, __LINE__, #condition, bnfast_last_error()); \
            exit(1);                                                                                 \
        }                                                                                            \
    } while (0)
