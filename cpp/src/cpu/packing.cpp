// Tensors of any strides in memory that kernels can walk: in place where the strides allow, otherwise as dense copies.
#include "cpu/packing.h"

#include <algorithm>
#include <cstring>

#include "problem/broadcast.h"

namespace bnfast::cpu {
namespace {

enum class Direction { kToDense, kFromDense };

// Copies elements between a strided view and dense memory, walking `dims` with the last one fastest.
template <class Element>
void copy_elements(const TensorView& view, const Dims& dims, char* dense, Direction direction) {
    std::int64_t index[kMaxDims] = {};
    char* p = static_cast<char*>(view.data);
    const int last = dims.empty() ? -1 : dims[dims.size() - 1];
    const std::int64_t run = last < 0 ? 1 : view.shape[last];
    const std::int64_t stride = last < 0 ? 0 : view.strides[last];
    const bool to_dense = direction == Direction::kToDense;
    while (true) {
        char* q = p;
        for (std::int64_t i = 0; i < run; ++i, q += stride, dense += sizeof(Element)) {
            std::memcpy(to_dense ? dense : q, to_dense ? q : dense, sizeof(Element));
        }
        int k = dims.size() - 2;
        for (; k >= 0; --k) {
            const int d = dims[k];
            p += view.strides[d];
            if (++index[k] < view.shape[d]) break;
            p -= view.strides[d] * view.shape[d];
            index[k] = 0;
        }
        if (k < 0) return;
    }
}

void copy_elements(const TensorView& view, const Layout& layout, char* dense, Direction direction) {
    for (int d = 0; d < view.ndim; ++d) {
        if (view.shape[d] == 0) return;
    }
    const Dims dims = layout.all_dims();
    switch (item_size(view.dtype)) {
        case 8: return copy_elements<std::uint64_t>(view, dims, dense, direction);
        case 4: return copy_elements<std::uint32_t>(view, dims, dense, direction);
        default: return copy_elements<std::uint16_t>(view, dims, dense, direction);
    }
}

}  // namespace

std::optional<InPlace> in_place(const TensorView& view, const Layout& layout) {
    const std::optional<BoxStrides> strides = strides_in_place(view, layout);
    if (!strides) return std::nullopt;
    return InPlace{{view.data, strides->outer, strides->channel}, strides->sample};
}

void PackedTensor::bind(const TensorView& view, const Layout& layout, Use use) {
    view_ = &view;
    layout_ = &layout;
    use_ = use;
    if (const std::optional<InPlace> found = in_place(view, layout)) {
        operand_ = found->operand;
        sample_stride_ = found->sample_stride;
        return;
    }
    const Geometry& g = layout.geometry;
    copy_.reset(new char[static_cast<std::size_t>(layout.elements() * item_size(view.dtype))]);
    operand_ = {copy_.get(), g.channels * g.inner, g.inner};
    sample_stride_ = g.outer * g.channels * g.inner;
    if (use == Use::kRead) copy_elements(view, layout, copy_.get(), Direction::kToDense);
}

void PackedTensor::finish() {
    if (use_ == Use::kWrite && copy_ != nullptr) copy_elements(*view_, *layout_, copy_.get(), Direction::kFromDense);
}

PackedWhere pack_where(const TensorView& where, const TensorView& x, const Layout& layout) {
    PackedWhere result;
    const WhereView where_view(where, x, layout.axes.axis);
    const TensorView& view = where_view.get();
    const Geometry& g = layout.geometry;
    const std::int64_t count = g.outer * g.inner;
    Dims dims = layout.outer_dims;
    dims.append(layout.inner_dims);
    std::vector<std::uint8_t> dense(static_cast<std::size_t>(count) + 1);
    if (count > 0) {
        copy_elements<std::uint8_t>(view, dims, reinterpret_cast<char*>(dense.data()), Direction::kToDense);
    }
    const std::int64_t lines = g.rows ? 1 : g.outer, line = g.rows ? g.outer : g.inner;
    constexpr std::int64_t kSlack = 8;  // kernels read four bytes from any bit on
    result.bits.pitch = (line + 7) / 8 + kSlack;
    result.bytes.assign(static_cast<std::size_t>(lines * result.bits.pitch + kSlack), 0);
    for (std::int64_t l = 0; l < lines; ++l) {
        for (std::int64_t i = 0; i < line; ++i) {
            const bool truth = dense[static_cast<std::size_t>(l * line + i)] != 0;
            result.bytes[static_cast<std::size_t>(l * result.bits.pitch + i / 8)] |=
                static_cast<std::uint8_t>(static_cast<unsigned>(truth) << (i % 8));
        }
    }
    result.bits.bits = result.bytes.data();
    return result;
}

}  // namespace bnfast::cpu
