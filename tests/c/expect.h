// EXPECT(condition): ends the test where it does not hold.
#pragma once

#include <stdio.h>
#include <stdlib.h>

static inline void expect(int holds, const char* condition, const char* file, int line) {
    if (holds) return;
    fprintf(stderr, "%s:%d: %s does not hold\n", file, line, condition);
    exit(1);
}

#define EXPECT(condition) expect((condition) != 0, #condition, __FILE__, __LINE__)
