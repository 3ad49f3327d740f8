// Batch normalization on the CPU: splits a Problem over threads and merges block results along fixed trees.
#pragma once

#include "cpu/problem.h"

namespace bnfast::cpu {

// The elements of a channel that take part.
double count_taking_part(const Problem& problem);

// Fills count, mean, mean_low and m2; and invstd unless it is null.
void moments(const Problem& problem, const ChannelStatistics& out);

// Measures x, fills the statistics and invstd, and writes y.
void forward(const Problem& problem, const ChannelStatistics& out);

// Writes y with the statistics given, of which invstd is there, or is filled from count and m2.
enum class Invstd { kThere, kFromVariance };
void normalise(const Problem& problem, const ChannelStatistics& given, Invstd invstd);

// Sums over x's own elements of the gradient dz at the affine's output, and of dz * (x - mean).
void gradient_sums(const Problem& problem, const ChannelStatistics& saved, double* sum_dz, double* sum_dz_xmu);

// dx and dresidual, dbeta = sum dz and dgamma = sum dz * (x - mean) * invstd. With constant_statistics mean and var do
// not depend on x. total, where given, are the count and sums of the whole (synchronised) batch.
struct TotalSums {
    const double *count, *sum_dz, *sum_dz_xmu;
};
void backward(const Problem& problem, const ChannelStatistics& saved, bool constant_statistics, const TotalSums* total,
              double* dgamma, double* dbeta);

// dst[i] = sum over the sources, streamed by the threads in use: the bandwidth floor that bench/ measures.
void stream_sum(float* dst, const float* const* sources, int num_sources, std::int64_t n, int threads);

}  // namespace bnfast::cpu
