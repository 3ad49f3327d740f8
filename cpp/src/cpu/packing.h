// Tensors of any strides in memory that kernels can walk: in place where the strides allow, otherwise as dense copies.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "cpu/kernels/table.h"
#include "problem/strides.h"

namespace bnfast::cpu {

// A view as an operand, where kernels can walk it as it lies in memory: box 0 of the layout, and how far apart the
// others are, in elements.
struct InPlace {
    Operand operand;
    std::int64_t sample_stride;
};
std::optional<InPlace> in_place(const TensorView& view, const Layout& layout);

// A tensor in the order of a layout. The view and the layout must outlive it.
class PackedTensor {
  public:
    enum class Use { kRead, kWrite };

    void bind(const TensorView& view, const Layout& layout, Use use);

    // Box 0 of the layout; the others lie sample_stride() elements apart.
    const Operand& operand() const { return operand_; }
    std::int64_t sample_stride() const { return sample_stride_; }
    // Copies what was written back to the caller's memory, where it was not written in place.
    void finish();

  private:
    const TensorView* view_ = nullptr;
    const Layout* layout_ = nullptr;
    Use use_ = Use::kRead;
    Operand operand_;
    std::int64_t sample_stride_ = 0;
    std::unique_ptr<char[]> copy_;
};

// The truth values of `where` as bits, in the order of a layout.
struct PackedWhere {
    std::vector<std::uint8_t> bytes;
    WhereBits bits;
};
PackedWhere pack_where(const TensorView& where, const TensorView& x, const Layout& layout);

}  // namespace bnfast::cpu
