// The functions of numerics/ over arrays, as a table: one is made of vectors in each SIMD target, one of single
// numbers.
#pragma once

#include <cstdint>

namespace forms {

constexpr int kMost = 7;  // arguments or results

// results[r][i] = result r of f(arguments[0][i], arguments[1][i], ...) for i < n, a multiple of 16.
template <class T>
struct Form {
    const char* name;
    int arguments, results;
    void (*run)(const T* const* arguments, T* const* results, std::int64_t n);
};

struct Table {
    const Form<float>* of_float;
    int num_of_float;
    const Form<double>* of_double;
    int num_of_double;
};

}  // namespace forms
