// Which bytes a view touches: whether two views, or two elements of one, share any.
#include "api/memory.h"

#include <algorithm>

namespace bnfast::api {
namespace {

// Adds a dimension to those that are there, largest stride first.
void insert(Memory& memory, const Memory::Dim& dim) {
    int at = memory.ndim++;
    for (; at > 0 && memory.dims[at - 1].stride < dim.stride; --at) memory.dims[at] = memory.dims[at - 1];
    memory.dims[at] = dim;
}

}  // namespace

Memory memory_of(const TensorView& view) {
    Memory memory;
    memory.begin = reinterpret_cast<std::uintptr_t>(view.data);
    memory.item = item_size(view.dtype);
    for (int d = 0; d < view.ndim; ++d) {
        const std::int64_t stride = view.strides[d], steps = view.shape[d] - 1;
        if (steps < 0) {  // no element
            memory.item = 0;
            return memory;
        }
        if (steps == 0 || stride == 0) {
            if (steps > 0) insert(memory, {0, steps});
            continue;
        }
        if (stride < 0) memory.begin -= static_cast<std::uintptr_t>(-stride * steps);
        insert(memory, {stride < 0 ? -stride : stride, steps});
    }
    return memory;
}

Memory memory_of(const double* numbers, std::int64_t count) {
    Memory memory;
    memory.begin = reinterpret_cast<std::uintptr_t>(numbers);
    memory.item = count * static_cast<std::int64_t>(sizeof(double));
    return memory;
}

namespace {

std::int64_t span(const Memory& m, int from) {
    std::int64_t bytes = m.item;
    for (int d = from; d < m.ndim; ++d) bytes += m.dims[d].stride * m.dims[d].steps;
    return bytes;
}

// Whether dimensions [da ..) of a and [db ..) of b never meet, b beginning `delta` bytes after a. Steps of the largest
// stride s are taken out of both: what remains is compared modulo s, at each of the two ways in which it can meet.
bool never_meet(const Memory& a, int da, const Memory& b, int db, std::int64_t delta) {
    if (delta >= span(a, da) || -delta >= span(b, db)) return true;
    const std::int64_t stride_a = da < a.ndim ? a.dims[da].stride : 0;
    const std::int64_t stride_b = db < b.ndim ? b.dims[db].stride : 0;
    const std::int64_t s = std::max(stride_a, stride_b);
    if (s == 0) return false;
    while (da < a.ndim && a.dims[da].stride == s) ++da;
    while (db < b.ndim && b.dims[db].stride == s) ++db;
    const std::int64_t rest_a = span(a, da), rest_b = span(b, db);
    if (rest_a > s || rest_b > s) return false;
    const std::int64_t behind = (delta % s + s) % s;
    return (behind >= rest_a || never_meet(a, da, b, db, behind)) &&
           (behind + rest_b <= s || never_meet(a, da, b, db, behind - s));
}

}  // namespace

bool disjoint(const Memory& a, const Memory& b) {
    if (a.item == 0 || b.item == 0) return true;
    return never_meet(a, 0, b, 0, static_cast<std::int64_t>(b.begin - a.begin));
}

bool overlaps_itself(const Memory& memory) {
    for (int d = 0; d < memory.ndim; ++d) {
        if (memory.dims[d].stride < span(memory, d + 1)) return true;
    }
    return false;
}

bool same_memory(const TensorView& a, const TensorView& b) {
    if (a.data != b.data || a.ndim != b.ndim || a.dtype != b.dtype) return false;
    for (int d = 0; d < a.ndim; ++d) {
        if (a.shape[d] != b.shape[d] || (a.shape[d] > 1 && a.strides[d] != b.strides[d])) return false;
    }
    return true;
}

}  // namespace bnfast::api
