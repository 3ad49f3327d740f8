// Whether a view can be walked as it lies in memory, in the order of a layout.
#pragma once

#include <cstdint>
#include <optional>

#include "problem/layout.h"

namespace bnfast {

// Whether nothing lies between one plane and that of the next channel, or between one row and the next.
bool runs_touch(const TensorView& view, const Layout& layout);

// How far apart the outer runs, the channels and the samples of a view are, in elements.
struct BoxStrides {
    std::int64_t outer, channel, sample;
};
// Of a view whose inner elements (in rows: whose channels) are side by side; nothing where some dimensions cannot be
// walked as one.
std::optional<BoxStrides> strides_in_place(const TensorView& view, const Layout& layout);

}  // namespace bnfast
