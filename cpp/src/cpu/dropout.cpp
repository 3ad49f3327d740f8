// Dropout on the CPU: runs of elements shared out among threads.
#include "cpu/dropout.h"

#include <algorithm>
#include <optional>

#include "cpu/dropout_tiles.h"
#include "cpu/packing.h"
#include "cpu/schedule.h"
#include "cpu/target.h"

namespace bnfast::cpu {
namespace {

using numerics::kGroup;

constexpr std::int64_t kTaskElements = 65536;

// The first mask element of each run, walked in order.
class RunIndex {
  public:
    RunIndex(const MaskRuns& runs, std::int64_t run) : runs_(runs), at_(runs.shape.size()) {
        for (std::size_t d = at_.size(); d-- > 0;) {
            at_[d] = run % runs.shape[d];
            run /= runs.shape[d];
            index_ += at_[d] * runs.mask_strides[d];
        }
    }
    std::uint64_t index() const { return static_cast<std::uint64_t>(index_); }
    void next() {
        for (std::size_t d = at_.size(); d-- > 0;) {
            index_ += runs_.mask_strides[d];
            if (++at_[d] < runs_.shape[d]) return;
            index_ -= runs_.mask_strides[d] * at_[d];
            at_[d] = 0;
        }
    }

  private:
    const MaskRuns& runs_;
    std::vector<std::int64_t> at_;
    std::int64_t index_ = 0;
};

// The mask bits of whole groups, whatever the rate.
void fill_mask_bits(const DropoutMask& mask, std::uint64_t first_group, std::int64_t groups, std::uint8_t* out) {
    if (mask.keep == 0 || mask.keep >= kKeepAll) {
        std::fill_n(out, groups * kGroup / 8, static_cast<std::uint8_t>(mask.keep == 0 ? 0 : 0xff));
    } else {
        active_target().mask_bits(mask, first_group, groups, out);
    }
}

// Single mask bits; the group that one comes from serves the next ones, too.
class MaskReader {
  public:
    explicit MaskReader(const DropoutMask& mask) : mask_(mask) {}
    bool kept(std::uint64_t index) {
        if (index / kGroup != group_) {
            group_ = index / kGroup;
            fill_mask_bits(mask_, group_, 1, group_bits_);
        }
        return (group_bits_[index % kGroup / 8] >> (index % 8)) & 1;
    }

  private:
    DropoutMask mask_;
    std::uint64_t group_ = ~std::uint64_t{0};
    std::uint8_t group_bits_[kGroup / 8];
};

// Where run number k begins in a tensor: the runs of the last dimension before them are `step` elements apart, and
// there are `count` of those in each step of the dimensions before.
struct RunAddress {
    char* data;
    std::int64_t count, outer_bytes, step_bytes;

    char* operator()(std::int64_t run) const { return data + run / count * outer_bytes + run % count * step_bytes; }
};

RunAddress address_of(const Operand& operand, const Geometry& g, std::int64_t item) {
    return {static_cast<char*>(operand.data), g.rows ? 1 : g.channels, operand.outer_stride * item,
            operand.channel_stride * item};
}

// A tensor's runs as planes of a layout; the only dimension of a vector as a row.
Layout layout_of(const DropoutProblem& problem) {
    const MaskRuns& runs = problem.runs;
    Layout layout;
    Geometry& g = layout.geometry;
    g.outer = 1;
    if (runs.first_dim == 0) {
        layout.channel_dims.push_back(0);
        g.channels = runs.length;
        g.inner = 1;
        g.rows = true;
        return layout;
    }
    const int channel_axis = runs.first_dim - 1;
    layout.channel_dims.push_back(channel_axis);
    for (int d = 0; d < channel_axis; ++d) {
        layout.outer_dims.push_back(d);
        g.outer *= problem.x.shape[d];
    }
    for (int d = runs.first_dim; d < problem.x.ndim; ++d) layout.inner_dims.push_back(d);
    g.channels = problem.x.shape[channel_axis];
    g.inner = runs.length;
    return layout;
}

// Whether all elements are one dense block of mask elements in order: a single run.
bool is_one_run(const MaskRuns& runs, const Geometry& g, const Operand& x, const Operand& y) {
    const auto dense = [&](const Operand& operand) {
        return (g.channels == 1 || operand.channel_stride == g.inner) &&
               (g.outer == 1 || operand.outer_stride == g.channels * g.inner);
    };
    if (runs.constant || g.inner == 0) return false;
    std::int64_t stride = g.inner;
    for (std::size_t d = runs.shape.size(); d-- > 0;) {
        if (runs.shape[d] != 1 && runs.mask_strides[d] != stride) return false;
        stride *= runs.shape[d];
    }
    return dense(x) && dense(y);
}

}  // namespace

void dropout(const DropoutProblem& problem) {
    const Layout layout = layout_of(problem);
    const Geometry& g = layout.geometry;
    const std::int64_t item = item_size(problem.x.dtype), elements = layout.elements();
    if (elements == 0) return;
    const auto kernel = active_target().elements[static_cast<int>(problem.x.dtype)].dropout;
    DropoutRun common;
    common.mask = problem.mask;
    common.constant = problem.runs.constant;
    common.scale = problem.scale;
    common.shift = problem.shift;
    common.dropped = problem.dropped;
    const auto kept_at = [&](MaskReader& reader, std::uint64_t index) {
        return problem.runs.constant ? reader.kept(index) : problem.mask.keep != 0;
    };
    const std::optional<InPlace> x = in_place(problem.x, layout), y = in_place(problem.y, layout);
    if (!x || !y) {
        dropout_by_tiles(problem, [&](const char* from, char* to, std::int64_t n, std::uint64_t index) {
            MaskReader reader(problem.mask);
            DropoutRun task = common;
            task.x = from;
            task.y = to;
            task.n = n;
            task.index = index;
            task.kept = kept_at(reader, index);
            task.streaming = false;
            kernel(task);
        });
        return;
    }
    const bool one_run = g.rows || is_one_run(problem.runs, g, x->operand, y->operand);
    const RunAddress x_run = address_of(x->operand, g, item), y_run = address_of(y->operand, g, item);
    common.streaming = x->operand.data != y->operand.data && worth_streaming(elements * item);
    const int threads = useful_threads(elements);
    const auto apply = [&](std::int64_t run, std::int64_t first, std::int64_t n, std::uint64_t index, bool kept) {
        DropoutRun task = common;
        task.x = x_run(run) + first * item;
        task.y = y_run(run) + first * item;
        task.n = n;
        task.index = index;
        task.kept = kept;
        kernel(task);
    };
    if (one_run) {
        parallel_for((elements + kTaskElements - 1) / kTaskElements, threads, [&](std::int64_t task) {
            const std::int64_t begin = task * kTaskElements, n = std::min(kTaskElements, elements - begin);
            MaskReader reader(problem.mask);
            apply(0, begin, n, problem.runs.constant ? 0 : static_cast<std::uint64_t>(begin), kept_at(reader, 0));
        });
    } else {
        const std::int64_t length = problem.runs.length, runs = elements / length;
        const std::int64_t per_task = std::max<std::int64_t>(1, kTaskElements / length);
        parallel_for((runs + per_task - 1) / per_task, threads, [&](std::int64_t task) {
            MaskReader reader(problem.mask);
            RunIndex index(problem.runs, task * per_task);
            for (std::int64_t run = task * per_task; run < std::min(runs, (task + 1) * per_task); ++run, index.next()) {
                apply(run, 0, length, index.index(), kept_at(reader, index.index()));
            }
        });
    }
}

void expand_mask(const DropoutMask& mask, const MaskRuns& runs, std::uint8_t* out) {
    const std::int64_t length = runs.length, count = runs.count();
    if (count * length == 0) return;
    std::vector<std::uint8_t> bits((kTaskElements + 2 * kGroup) / 8);
    MaskReader reader(mask);
    RunIndex index(runs, 0);
    for (std::int64_t r = 0; r < count; ++r, index.next(), out += length) {
        if (runs.constant) {
            std::fill_n(out, length, static_cast<std::uint8_t>(reader.kept(index.index())));
            continue;
        }
        for (std::int64_t begin = 0; begin < length; begin += kTaskElements) {
            const std::int64_t n = std::min(kTaskElements, length - begin);
            const std::uint64_t first = index.index() + static_cast<std::uint64_t>(begin);
            const std::int64_t skip = static_cast<std::int64_t>(first % kGroup);
            fill_mask_bits(mask, first / kGroup, (skip + n + kGroup - 1) / kGroup, bits.data());
            for (std::int64_t i = 0; i < n; ++i) {
                const std::size_t bit = static_cast<std::size_t>(skip + i);
                out[begin + i] = (bits[bit / 8] >> (bit % 8)) & 1;
            }
        }
    }
}

}  // namespace bnfast::cpu
