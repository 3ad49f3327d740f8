// Whether a view can be walked as it lies in memory, in the order of a layout.
#include "problem/strides.h"

namespace bnfast {
namespace {

// The one stride in bytes with which dimensions can be walked as a single one; `fits` is false where there is none.
struct MergedStride {
    std::int64_t stride = 0;
    bool fits = true;
};
MergedStride merge_dims(const TensorView& v, const Dims& dims) {
    MergedStride merged;
    bool first = true;
    std::int64_t expected = 0;  // stride of the next slower dimension
    for (int k = dims.size() - 1; k >= 0; --k) {
        const int d = dims[k];
        if (v.shape[d] == 1) continue;
        if (first) {
            merged.stride = v.strides[d];
            first = false;
        } else if (v.strides[d] != expected) {
            merged.fits = false;
        }
        expected = v.strides[d] * v.shape[d];
    }
    return merged;
}

}  // namespace

bool runs_touch(const TensorView& view, const Layout& layout) {
    const Geometry& g = layout.geometry;
    const std::int64_t item = item_size(view.dtype);
    if (g.rows) return g.outer <= 1 || merge_dims(view, layout.outer_dims).stride == g.channels * item;
    return g.channels <= 1 || layout.splits_axis ||  // which only whole memory does
           merge_dims(view, layout.channel_dims).stride == g.inner * item;
}

std::optional<BoxStrides> strides_in_place(const TensorView& view, const Layout& layout) {
    const Geometry& g = layout.geometry;
    const std::int64_t item = item_size(view.dtype);
    const MergedStride outer = merge_dims(view, layout.outer_dims), inner = merge_dims(view, layout.inner_dims);
    MergedStride channels = merge_dims(view, layout.channel_dims);
    bool contiguous =
        g.rows ? channels.stride == item || g.channels == 1 : g.inner == 1 || (inner.fits && inner.stride == item);
    if (layout.splits_axis) {
        const MergedStride all = merge_dims(view, layout.all_dims());
        contiguous = all.fits && (all.stride == item || layout.elements() <= 1);
        channels = {g.inner * item, true};
    }
    const std::int64_t channel = channels.stride;
    const std::int64_t sample = layout.boxes_are_samples() ? view.strides[0] : 0;
    const bool aligned = reinterpret_cast<std::uintptr_t>(view.data) % static_cast<std::uintptr_t>(item) == 0;
    const bool whole_items = outer.stride % item == 0 && channel % item == 0 && sample % item == 0;
    // What has no elements may have no address either, by which an operand shows that it is there: a copy has one.
    const bool walkable = view.data != nullptr && outer.fits && channels.fits && contiguous && aligned && whole_items;
    if (!walkable || (g.flat && !runs_touch(view, layout))) return std::nullopt;
    return BoxStrides{outer.stride / item, channel / item, sample / item};
}

}  // namespace bnfast
