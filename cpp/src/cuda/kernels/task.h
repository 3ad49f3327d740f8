// What kernels are given: a normalization call as numbers and addresses, and how it is cut into work.
#pragma once

#include "bnfast/norm_options.h"
#include "cuda/kernels/divider.h"
#include "numerics/mask.h"

namespace bnfast::cuda {

// A tensor as boxes of outer runs of channels of inner elements, which are side by side; in rows inner is 1 and the
// channels are side by side. Steps count elements.
struct Operand {
    char* data = nullptr;
    std::int64_t box = 0, outer = 0, channel = 0;

    BNFAST_INLINE bool is_there() const { return data != nullptr; }
};

// Where the elements of some dimensions, walked as one, are in an array of other strides. At most kMost dimensions.
template <int kMost>
struct IndexMapOf {
    int count = 0;
    Divider size[kMost];  // fastest first
    std::int64_t stride[kMost] = {};

    BNFAST_DEVICE std::int64_t at(std::int64_t i) const {
        std::int64_t index = 0;
        for (int d = 0; d < count; ++d) {
            const Divided divided = divide(i, size[d]);
            index += divided.remainder * stride[d];
            i = divided.quotient;
        }
        return index;
    }
};
using IndexMap = IndexMapOf<4>;

// A dropout mask, and which of its elements belongs to an element of the walk.
struct MaskTask {
    bool used = false;
    DropoutMask mask;
    double scale = 1.0;  // of the elements that are kept
    std::int64_t box = 0, channel = 0;
    IndexMap outer, inner;
    bool along = false;  // inner elements follow each other in the mask
    // Where in shared memory each warp has room for the bits of an item, and how much; -1: they are not shared.
    std::int64_t window = -1, window_bytes = 0;
};

// The float64 numbers of the statistics, and the parameters.
struct StatisticsTask {
    double *count = nullptr, *mean = nullptr, *mean_low = nullptr, *m2 = nullptr, *invstd = nullptr;
    const double *gamma = nullptr, *beta = nullptr;
};

// Which gamma and beta an element has.
enum class ParametersAre : int {
    kOfStatistic,  // of the channel that its statistic is that of
    kOfChannel,    // of its channel, which is one of several of a statistic
    kAlongInner,   // of its place among the inner elements
};

// What a block does, and with which part. A unit is what one team of blocks normalises at a time: a statistic, or in
// rows a tile of neighbouring channels. Its items are runs of elements, or pieces of them, of one row in rows. Each
// block of the team has a range of the items, in tiles that fit into its shared memory; where one tile is all, tensors
// are read once.
struct Work {
    std::int64_t units = 0, items = 0;  // items of a unit
    Divider units_of_box;
    int team = 1;
    std::int64_t tile_items = 0;  // 0: nothing is staged
    std::int64_t tile_bytes = 0;  // of an operand's tile
    int lanes = kWarp;            // neighbouring threads that share an item
    std::int64_t piece = 0;       // elements of an item
    Divider pieces;               // of a run
    bool parameters_staged = false;
    double* exchange = nullptr;         // what the blocks of a team tell each other
    std::uint32_t* arrivals = nullptr;  // a counter a team
};

struct NormTask {
    std::int64_t boxes = 1;
    std::int64_t outer = 0, channels = 0, inner = 0;  // of a box
    Divider share;                                    // channels of a unit, which have one statistic
    Divider units_of_statistic;                       // more than one where sums are taken of each channel of several
    ParametersAre parameters = ParametersAre::kOfStatistic;
    std::int64_t parameter_count = 0;
    Work work;
    Operand x, residual, y, dy, dh, dx, dresidual;
    Operand input, input_residual;        // of the prologue, which writes x
    const std::uint8_t* where = nullptr;  // a byte for each outer and inner element
    MaskTask mask, mask_before;           // behind the activation, and before the norm
    StatisticsTask statistics;
    Centre centre = Centre::kMean;
    double eps = 0;
    EpsPlacement placement = EpsPlacement::kVar;
    Activation activation = Activation::kNone;
    double slope = 0;
    // forward
    bool measures = false, writes = false;
    // backward
    bool from_output = false, constant_statistics = false, sums = false;
    double *sum_dz = nullptr, *sum_dz_xmu = nullptr;                              // of each channel: written by sums
    double *total_count = nullptr, *total_dz = nullptr, *total_dz_xmu = nullptr;  // given, where they are not its own
    double *dgamma = nullptr, *dbeta = nullptr;                                   // of each channel
    double* parameter_partials = nullptr;  // dbeta and dgamma along the inner elements, of each team
};

}  // namespace bnfast::cuda
