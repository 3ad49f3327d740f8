// What the backward pass of a normalization needs beyond the tensors: plain numbers in memory that the caller may own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "bnfast/memory.h"
#include "bnfast/norm_options.h"
#include "bnfast/tensor.h"

namespace bnfast {

// The numbers of a state, in memory of x's device that is the caller's: rows of them, one after the other. The moments
// and invstd have an entry for each statistic, gamma and beta one for each parameter. (Constant statistics, those of
// batch_norm_frozen, are given as moments of one element: m2 / count is the variance.)
struct StateNumbers {
    double* values = nullptr;
    std::int64_t statistics = 0;  // pairs of mean and variance: one a channel, a sample and group, or a row
    std::int64_t parameters = 0;  // entries of gamma and beta: one a channel, or one for each element of a row

    std::int64_t size() const { return 5 * statistics + 2 * parameters; }
    double* count() const { return values; }
    double* mean() const { return values + statistics; }
    double* mean_low() const { return values + 2 * statistics; }
    double* m2() const { return values + 3 * statistics; }
    double* invstd() const { return values + 4 * statistics; }
    double* gamma() const { return values + 5 * statistics; }
    double* beta() const { return values + 5 * statistics + parameters; }
};

// A forward call fills it, and backward reads it. It can be copied, moved and stored like any plain memory, as long as
// `values` points to the numbers.
struct NormState : StateNumbers {
    const StateNumbers& numbers() const { return *this; }
    // How many numbers there is room for at `values`: at least as many as batch_norm_state_size() says.
    std::int64_t capacity = 0;
    // What the forward call was. Backward compares its arguments with these.
    NormOptions options;
    Scope scope = Scope::kBatch;
    Centre centre = Centre::kMean;
    std::int64_t groups = 0;  // of the channels, where the scope is theirs; 0: each is one by itself
    Device device;            // where the numbers are, with the stream that wrote them
    DType dtype = DType::kFloat32;
    int ndim = 0;
    std::int64_t shape[kMaxDims];      // the first ndim entries
    bool constant_statistics = false;  // mean and var do not depend on x (batch_norm_frozen)
    bool has_gamma = false;
    bool has_beta = false;
    bool has_residual = false;
    bool has_where = false;
    bool in_place = false;       // y was written over x, and backward works from y
    bool foreign_stats = false;  // statistics of more than x (several workers): backward needs total sums
};

// A state that owns its memory.
class OwnedNormState {
  public:
    // Room for `size` numbers where x is; of a device with streams, in the order of the given one.
    explicit OwnedNormState(std::int64_t size, const Device& device = {}) : memory_(new_numbers(size, device)) {
        state_.values = memory_.get();
        state_.capacity = size;
    }
    OwnedNormState(const OwnedNormState&) = delete;  // `values` points into this object
    OwnedNormState& operator=(const OwnedNormState&) = delete;
    NormState& state() { return state_; }
    const NormState& state() const { return state_; }

  private:
    Numbers memory_;  // not set to zero
    NormState state_;
};

}  // namespace bnfast
