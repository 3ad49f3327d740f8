// Which element of a dropout mask belongs to which element of a tensor.
#include "problem/dropout_problem.h"

#include <functional>
#include <numeric>

namespace bnfast {

std::int64_t MaskRuns::count() const {
    return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

MaskRuns mask_runs(const std::int64_t* shape, int ndim, const std::vector<bool>& broadcast) {
    MaskRuns runs;
    const auto is_broadcast = [&](int d) { return static_cast<bool>(broadcast[static_cast<std::size_t>(d)]); };
    int begin = ndim;
    bool any = false;
    for (; begin > 0; --begin) {
        const int d = begin - 1;
        if (shape[d] == 1) continue;
        if (any && is_broadcast(d) != runs.constant) break;
        runs.constant = is_broadcast(d);
        any = true;
    }
    // The first of several dimensions always numbers runs: a batch is not one run because its masks happen to be alike.
    if (begin == 0 && ndim > 1) begin = 1;
    if (!any) runs.constant = is_broadcast(0);
    runs.first_dim = begin;
    for (int d = begin; d < ndim; ++d) runs.length *= shape[d];
    std::int64_t mask_stride = runs.constant ? 1 : runs.length;
    for (int d = begin - 1; d >= 0; --d) {
        runs.shape.insert(runs.shape.begin(), shape[d]);
        runs.mask_strides.insert(runs.mask_strides.begin(), is_broadcast(d) ? 0 : mask_stride);
        if (!is_broadcast(d)) mask_stride *= shape[d];
    }
    return runs;
}

}  // namespace bnfast
