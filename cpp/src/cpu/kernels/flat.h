// Short planes and narrow rows (up to four vectors), walked as rows of many elements: a flat row is one outer index
// of short planes, or 16 narrow rows. Sums are taken for each element of a flat row and folded to those of channels at
// the end; coefficients are expanded to one for each element. The runs of such tensors touch: others are copied
// first (cpu/packing.cpp), or not walked flat.
#pragma once

#include "cpu/kernels/activations.h"
#include "cpu/kernels/affine.h"

namespace bnfast {
namespace BNFAST_TARGET {

constexpr std::int64_t kFlatStrip = 1024;                     // elements whose sums stay in L1
constexpr std::int64_t kFlatArray = kFlatStrip + 4 * kLanes;  // a vector may reach beyond the strip

// Where the elements of a channel are in a flat row: element e of channel c at c * channel + e * step, e < count.
struct Fold {
    std::int64_t count, channel, step;

    BNFAST_INLINE explicit Fold(const Geometry& g)
        : count(g.rows ? kRowsInFlat : g.inner), channel(g.rows ? 1 : g.inner), step(g.rows ? g.channels : 1) {}
    // Channels in a strip. Narrow rows are one.
    BNFAST_INLINE std::int64_t strip() const { return kFlatStrip / count; }
};

// The sums of channels from those of the elements of a flat row.
inline void fold_sums(const Fold& fold, std::int64_t channels, double* values) {
    if (fold.step == 1) return fold_planes(fold.count, channels, values);
    fold_rows(fold.count, channels, values);
}
// The reverse: out[e of c] = values[c], continued periodically as coefficients of rows are. Written by vectors: what
// each has too much, the next one overwrites. Lanes beyond the last channel may be loaded.
template <class T>
class Expansion {
  public:
    BNFAST_INLINE explicit Expansion(const Fold& fold) : fold_(fold) {
        if (!many_in_vector()) return;
        for (std::int64_t first = 0; first < fold.count; ++first) {
            typename Native<T>::Int channel = 0;
            for (std::int64_t lane = 0, element = first; lane < kPart; ++lane) {
                channel_of_lane_[first][lane] = channel;
                if (++element < fold.count) continue;
                element = 0;
                ++channel;
            }
        }
    }
    BNFAST_INLINE void operator()(std::int64_t channels, const T* values, T* out) const {
        const std::int64_t width = channels * fold_.count;
        if (many_in_vector()) {
            const std::int64_t channel_step = kPart / fold_.count, element_step = kPart % fold_.count;
            for (std::int64_t i = 0, channel = 0, element = 0; i < width; i += kPart) {
                expand_part(values + channel, channel_of_lane_[element], out + i);
                element += element_step;
                const bool in_next = element >= fold_.count;
                channel += channel_step + (in_next ? 1 : 0);
                element -= in_next ? fold_.count : 0;
            }
        } else if (fold_.step == 1) {
            for (std::int64_t c = 0; c < channels; ++c) {
                for (std::int64_t e = 0; e < fold_.count; e += kLanes) {
                    store(out + c * fold_.channel + e, Vec<T>(values[c]));
                }
            }
        } else {
            const Vec<T> row = load(values);
            for (std::int64_t e = 0; e < fold_.count; ++e) store(out + e * fold_.step, row);
        }
        for (std::int64_t i = 0; i < kLanes; ++i) out[width + i] = out[i % width];
    }

  private:
    static constexpr int kPart = Vec<T>::kPartLanes, kMany = kLanes / 2;
    // Planes of which a vector has several: fewer vectors than planes.
    BNFAST_INLINE bool many_in_vector() const { return fold_.step == 1 && fold_.count <= kMany; }

    const Fold fold_;
    // By the element of a channel at which a part begins: which of the channels from there on a lane belongs to.
    typename Native<T>::Int channel_of_lane_[kMany][kPart];
};

BNFAST_INLINE Operand flat_operand(const Operand& operand, const Geometry& g, std::int64_t channel,
                                   std::int64_t item_size) {
    if (!operand.is_there()) return operand;
    return {static_cast<char*>(operand.data) + channel * (g.rows ? 1 : g.inner) * item_size,
            operand.outer_stride * (g.rows ? kRowsInFlat : 1), 1};
}
// `channels` from `channel` on as channels of flat rows.
BNFAST_INLINE Geometry flat_geometry(const Geometry& g, std::int64_t channels) {
    return {g.rows ? g.outer / kRowsInFlat : g.outer, channels * Fold(g).count, 1, true, false};
}
BNFAST_INLINE MaskTask flat_mask(MaskTask mask, const Geometry& g, std::int64_t channel) {
    const std::int64_t count = Fold(g).count;
    mask.all_channels *= count;
    mask.first_channel = (mask.first_channel + channel) * (g.rows ? 1 : count);
    mask.stored.words = nullptr;
    return mask;
}

// Coefficients of the channels of a strip, one for each element of the flat row.
template <class T>
class FlatCoefficients {
  public:
    BNFAST_INLINE FlatCoefficients(const Fold& fold, std::int64_t channel, std::int64_t channels)
        : expand_(fold), channel_(channel), channels_(channels) {}

    BNFAST_INLINE AffineArrays expand(const AffineArrays& c) {
        AffineArrays flat = c;
        if (c.prescaled) flat.prescale = one(0, c.prescale);
        flat.mean_high = one(1, c.mean_high);
        flat.mean_low = one(2, c.mean_low);
        flat.scale = one(3, c.scale);
        flat.shift = one(4, c.shift);
        if (c.has_inverse) flat.inverse = one(5, c.inverse);
        return flat;
    }
    BNFAST_INLINE GradientArrays expand(const GradientArrays& c) {
        GradientArrays flat = c;
        flat.mean_dz = one(6, c.mean_dz);
        flat.projection = one(7, c.projection);
        flat.dx_scale = one(8, c.dx_scale);
        if (c.weighted) flat.weight = one(9, c.weight);
        return flat;
    }

  private:
    BNFAST_INLINE void* one(int k, const void* source) {
        expand_(channels_, static_cast<const T*>(source) + channel_, values_[k]);
        return values_[k];
    }

    const Expansion<T> expand_;
    const std::int64_t channel_, channels_;
    T values_[10][kFlatArray];
};

// The task of the given channels as flat rows; `operands` are those that it has.
template <class Task, class... Operands>
BNFAST_INLINE Task flat_task(const Task& task, std::int64_t channel, std::int64_t channels, std::int64_t item_size,
                             Operands... operands) {
    const Geometry g = task.geometry;
    Task flat = task;
    flat.geometry = flat_geometry(g, channels);
    ((flat.*operands = flat_operand(task.*operands, g, channel, item_size)), ...);
    flat.mask = flat_mask(task.mask, g, channel);
    return flat;
}
template <class T>
BNFAST_INLINE ForwardTask flat_rows(const ForwardTask& task, FlatCoefficients<T>& coefficients, std::int64_t channel,
                                    std::int64_t channels, std::int64_t item_size) {
    ForwardTask flat =
        flat_task(task, channel, channels, item_size, &ForwardTask::x, &ForwardTask::residual, &ForwardTask::y);
    flat.affine = coefficients.expand(task.affine);
    return flat;
}
// For the sums of backward, or for dx, which needs the gradient's coefficients, too.
template <class T>
BNFAST_INLINE BackwardTask flat_rows_of_sums(const BackwardTask& task, FlatCoefficients<T>& coefficients,
                                             std::int64_t channel, std::int64_t channels, std::int64_t item_size) {
    BackwardTask flat = flat_task(task, channel, channels, item_size, &BackwardTask::x, &BackwardTask::residual,
                                  &BackwardTask::dy, &BackwardTask::dx, &BackwardTask::dresidual);
    flat.affine = coefficients.expand(task.affine);
    return flat;
}
template <class T>
BNFAST_INLINE BackwardTask flat_rows(const BackwardTask& task, FlatCoefficients<T>& coefficients, std::int64_t channel,
                                     std::int64_t channels, std::int64_t item_size) {
    BackwardTask flat = flat_rows_of_sums(task, coefficients, channel, channels, item_size);
    flat.gradient = coefficients.expand(task.gradient);
    return flat;
}

// Calls apply(task, tile) for a tile of short planes as tiles of flat rows.
template <class S, class Task, class Apply>
void apply_flat(const Task& task, const Tile& tile, Apply apply) {
    const Fold fold(task.geometry);
    for (std::int64_t c = tile.channel_begin, count; c < tile.channel_end; c += count) {
        count = tile.channel_end - c < fold.strip() ? tile.channel_end - c : fold.strip();
        FlatCoefficients<Compute<S>> coefficients(fold, c, count);
        apply(flat_rows(task, coefficients, c, count, sizeof(S)),
              Tile{tile.outer_begin, tile.outer_end, 0, count * fold.count, 0, 1});
    }
}

// What the loop over a tile is compiled for: planes, rows, or runs with parameters along them.
enum class TileForm { kPlanes, kRows, kAlongInner };
template <TileForm kForm, class Loop>
struct TileLoop : Loop {
    static constexpr bool kRows = kForm == TileForm::kRows, kAlongInner = kForm == TileForm::kAlongInner;
};
// Calls apply(loop, task, tile) with the loop that fits the layout and the task.
template <class S, class Task, class Apply>
BNFAST_INLINE void apply_tile(const Task& task, const Tile& tile, Apply apply) {
    if (task.along.used) {
        using Loop = GeneralLoop<Compute<S>>;
        return apply(TileLoop<TileForm::kAlongInner, Loop>{Loop(task.activation)}, task, tile);
    }
    with_loop<Compute<S>>(task, [&](auto loop) __attribute__((always_inline)) {
        const TileLoop<TileForm::kRows, decltype(loop)> rows_loop{loop};
        if (task.geometry.rows) {
            apply(rows_loop, task, tile);
        } else if (task.geometry.flat && task.geometry.inner < kLanes) {
            apply_flat<S>(task, tile, [&](const Task& flat, const Tile& rows) { apply(rows_loop, flat, rows); });
        } else {
            apply(TileLoop<TileForm::kPlanes, decltype(loop)>{loop}, task, tile);
        }
    });
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
