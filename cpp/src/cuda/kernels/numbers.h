// Kernels on numbers of channels: those of the caller as float64 and back, and sums of rows of them.
#pragma once

#include "cuda/kernels/task.h"
#include "cuda/kernels/team.h"

namespace bnfast::cuda {

// out[i] = source[i] as float64, or a number where there is no source.
struct NumberRow {
    const char* source = nullptr;
    bool is_double = false;
    IndexMap place;  // in bytes
    double absent = 0.0;
    double* out = nullptr;
};

struct FillNumbersKernel {
    static constexpr int kMostRows = 6;
    NumberRow rows[kMostRows];
    int count = 0;
    std::int64_t entries = 0;

    BNFAST_DEVICE void operator()() const {
        for_each_index(entries, [&](std::int64_t i) {
            for (int r = 0; r < count; ++r) {
                const NumberRow& row = rows[r];
                double value = row.absent;
                if (row.source != nullptr) {
                    const char* const at = row.source + row.place.at(i);
                    value = row.is_double ? *reinterpret_cast<const double*>(at)
                                          : static_cast<double>(*reinterpret_cast<const float*>(at));
                }
                row.out[i] = value;
            }
        });
    }
};

// Float64 numbers, or quotients of such, rounded, to where a tensor has them.
struct StoreNumbersKernel {
    const double* values = nullptr;
    const double* divisors = nullptr;
    char* out = nullptr;
    bool is_double = false;
    IndexMap place;  // in bytes
    std::int64_t entries = 0;

    BNFAST_DEVICE void operator()() const {
        for_each_index(entries, [&](std::int64_t i) {
            char* const at = out + place.at(i);
            const double value = divisors == nullptr ? values[i] : values[i] / divisors[i];
            if (is_double) {
                *reinterpret_cast<double*>(at) = value;
            } else {
                *reinterpret_cast<float*>(at) = static_cast<float>(value);
            }
        });
    }
};

// out[i] = the sum over rows of rows[r][i], always in the same order: each of several threads adds every so many rows.
struct AddRowsKernel {
    const double* values = nullptr;
    std::int64_t rows = 0, pitch = 0, entries = 0;
    double* out = nullptr;

    BNFAST_DEVICE void operator()() const {
        double* const scratch = reinterpret_cast<double*>(shared_memory());
        const int lanes = thread_count() / kWarp, lane = thread_index() / kWarp, column = thread_index() % kWarp;
        for (std::int64_t first = block_index() * kWarp; first < entries; first += block_count() * kWarp) {
            double sum = 0.0;
            if (first + column < entries) {
                for (std::int64_t r = lane; r < rows; r += lanes) sum += values[r * pitch + first + column];
            }
            scratch[thread_index()] = sum;
            barrier();
            if (lane == 0 && first + column < entries) {
                for (int l = 1; l < lanes; ++l) sum += scratch[l * kWarp + column];
                out[first + column] = sum;
            }
            barrier();
        }
    }
};

}  // namespace bnfast::cuda
