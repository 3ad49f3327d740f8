// What a SIMD target exports: one table of function pointers, and the plain structs that they take.
//
// Kernels are noexcept and check nothing. Strides count elements. Arrays of per-channel values are padded by kPadding
// entries, so that a kernel may load 16 lanes at any channel.
#pragma once

#include <cstdint>

#include "bnfast/norm_options.h"
#include "numerics/blocks.h"
#include "numerics/mask.h"

namespace bnfast::cpu {

constexpr std::int64_t kPadding = 32;  // entries behind the last channel

// A tensor, or one that a call does not have.
struct Operand {
    void* data = nullptr;
    std::int64_t outer_stride = 0;
    std::int64_t channel_stride = 0;

    BNFAST_INLINE bool is_there() const { return data != nullptr; }
};

// One bit an element of x without its channels: planes have a row of `pitch` bytes for each outer index,
// rows have one bit for each outer index in a single row.
struct WhereBits {
    const std::uint8_t* bits = nullptr;
    std::int64_t pitch = 0;

    BNFAST_INLINE bool are_there() const { return bits != nullptr; }
};

// The bits of a mask in memory: what the first of two sweeps makes and the second one reads. Planes: `pitch` words for
// each outer index, of which the first is the mask element up to which the bits are there. Rows: pitch is 0, and the
// words are those of the whole mask, which is complete in the second sweep.
struct StoredMask {
    std::uint64_t* words = nullptr;
    std::int64_t pitch = 0;
    bool complete = false;

    BNFAST_INLINE bool is_there() const { return words != nullptr; }
};

// Dropout behind the activation. Mask elements count in C order over all channels of the tensor, of which the task sees
// those from first_channel on.
struct MaskTask {
    bool used = false;
    DropoutMask dropout;
    std::int64_t all_channels = 0;
    std::int64_t first_channel = 0;
    double scale = 1.0;  // of kept elements
    StoredMask stored;
    std::int64_t portion = 256;  // elements for which bits are made at once: whole vectors, at most:
};
constexpr std::int64_t kMostAtOnce = 512;

constexpr std::int64_t kWholeBatches = 256;  // mask elements: batches whose bits are made together, on every target

// What a sweep over a tile fetches ahead: the inputs of the channels so many on, which are swept next, or:
constexpr std::int64_t kFetchAlong = 0;     // what comes next in memory
constexpr std::int64_t kFetchNothing = -1;  // all is in the cache

struct Tile {
    std::int64_t outer_begin, outer_end;
    std::int64_t channel_begin, channel_end;
    std::int64_t inner_begin, inner_end;
};

// Results for blocks [block_begin, block_end) of channels [channel_begin, channel_end):
// result[(block - block_begin) * pitch + (channel - channel_begin)].
struct BlockRange {
    std::int64_t channel_begin, channel_end;
    std::int64_t block_begin, block_end;
    std::int64_t pitch;
};

struct MomentsTask {
    Geometry geometry;
    Blocks blocks;
    Operand x;
    WhereBits where;
    const double* counts;  // elements in each block; counts[0] is block 0 of the whole channel
};

struct BlockMoments {
    double* mean;
    double* mean_low;
    double* m2;
};

// Per-channel coefficients in the type that the kernel computes in.
struct AffineArrays {
    bool prescaled = false;     // some channel needs its prescale
    bool has_inverse = false;   // backward from y
    void* prescale = nullptr;   // a power of two that keeps x - mean within range
    void* mean_high = nullptr;  // prescale * mean as an unevaluated sum
    void* mean_low = nullptr;
    void* scale = nullptr;    // gamma * invstd / prescale
    void* shift = nullptr;    // beta
    void* inverse = nullptr;  // 1 / scale, or zero
};
struct GradientArrays {
    bool weighted = false;       // channels that share a statistic: dz counts times gamma
    void* mean_dz = nullptr;     // mean of the (weighted) gradient at the affine's output
    void* projection = nullptr;  // factor of (x - mean) * prescale
    void* dx_scale = nullptr;    // gamma * invstd; invstd where dz is weighted
    void* weight = nullptr;      // gamma
};

// Parameters that lie along the inner elements, in the type that the kernel computes in: element i of channel c has
// entry (first + c) % period * inner + i. The coefficients of the channels are then those of gamma 1 and beta 0.
struct AlongInner {
    bool used = false;
    std::int64_t first = 0, period = 1;
    void* gamma = nullptr;
    void* beta = nullptr;
    bool has_inverse = false;  // backward from y
    void* inverse = nullptr;   // 1 / gamma
};

// How sums about zero of a channel become those about its mean: by the mean, or centred from the start, where the mean
// is so far from zero that it would cost digits.
struct SumsCentre {
    bool wanted = false;
    double* mean = nullptr;
    bool* centred = nullptr;
};

// The activation of a call. from_output: backward starts from y, which lies where x was (in-place batch norm); the
// activation is then strictly increasing, and the call has neither residual, where nor dropout.
struct ActivationCall {
    Activation activation = Activation::kNone;
    double slope = 0.01;
    bool from_output = false;
};

// What sums of backward are of: dz * x, which are moved to the mean block by block, or dz * (x - mean), as those of
// 16-bit x always are: kAboutZero then stands for short runs, where these are possible.
enum class Sums { kAboutZero, kCentred };

struct ForwardTask {
    Geometry geometry;
    Operand x, residual, y;
    AffineArrays affine;
    AlongInner along;
    WhereBits where;
    MaskTask mask;
    ActivationCall activation;
    bool streaming = false;                     // write past the caches
    std::int64_t fetch_channels = kFetchAlong;  // what to fetch ahead, as in kFetch...
};

struct BackwardTask {
    Geometry geometry;
    Blocks blocks;
    Operand x, residual, dy, dh, dx, dresidual;
    AffineArrays affine;
    AlongInner along;
    GradientArrays gradient;
    SumsCentre centre;  // of sums about zero
    WhereBits where;
    MaskTask mask;
    MaskTask before;  // dropout before the norm, which dx is behind; dresidual is the gradient between the two
    ActivationCall activation;
    bool streaming = false;
    std::int64_t fetch_channels = kFetchAlong;
    Sums sums = Sums::kAboutZero;
};

struct BlockSums {
    double* dz;      // sum of the gradient at the affine's output
    double* dz_xmu;  // the same times (x - mean) * prescale
};

// Where parameters lie along the inner elements: sums over the channels of a range, added to what is there, one for
// each parameter: of dz, and of dz * (x - mean) * invstd.
struct ParameterSums {
    double* dbeta;
    double* dgamma;
};

// Channels of inner elements: h = residual + (kept ? x * scale : 0). A residual without data is none; where nothing
// drops all are kept. The mask counts from channel `first_channel` on.
struct PrologueTask {
    bool used = false, drops = false;
    Operand x, residual, h;
    DropoutMask mask;
    std::int64_t first_channel = 0;
    double scale = 1.0;
};

// The numbers of channels that have a statistic each.
struct ChannelStatistics {
    double *count, *mean, *mean_low, *m2, *invstd;
};

// Forward of whole channels whose parameters lie along their inner elements: what `forward` does with statistics that
// are first measured. `forward` lacks its coefficients.
struct AlongForwardTask {
    ForwardTask forward;
    PrologueTask prologue;
    Blocks blocks;
    const double* block_counts = nullptr;  // elements of each block
    ChannelStatistics statistics{};        // written
    bool about_zero = false;
    double eps = 0.0;
    EpsPlacement placement = EpsPlacement::kVar;
};

// n contiguous elements: y = kept ? x * scale + shift : dropped. `constant`: `kept` holds for all of them; otherwise
// the mask elements from `index` on decide (`kept` where the bits keep or drop all).
struct DropoutRun {
    const void* x = nullptr;
    void* y = nullptr;
    std::int64_t n = 0;
    DropoutMask mask;
    std::uint64_t index = 0;
    bool constant = false, kept = true;
    double scale = 1.0, shift = 0.0, dropped = 0.0;
    bool streaming = false;
};

// Saved or given statistics and parameters of a channel range, all float64, an entry for each channel.
struct AffineInputs {
    const double* mean = nullptr;
    const double* mean_low = nullptr;
    const double* m2 = nullptr;
    const double* count = nullptr;
    const double* invstd = nullptr;
    const double* gamma = nullptr;
    const double* beta = nullptr;
};

// The sums of the whole batch and the statistics that they belong to, float64.
struct GradientInputs {
    const double *count = nullptr, *m2 = nullptr, *invstd = nullptr, *gamma = nullptr;
    const double *total_count = nullptr, *sum_dz = nullptr, *sum_dz_xmu = nullptr;
    bool weighted = false;            // sums are of dz * gamma
    bool about_zero = false;          // deviations are: no mean of dz is taken off
    bool sums_are_prescaled = false;  // sum_dz_xmu is that of dz * (x - mean) * prescale
    double eps = 0.0;
    EpsPlacement placement = EpsPlacement::kVar;
    bool constant_statistics = false;
};

// Backward of whole channels whose parameters lie along their inner elements: sums, and what `backward` does with them.
// `backward` lacks its coefficients, and `gradient` all that is a channel's.
struct AlongBackwardTask {
    BackwardTask backward;
    ChannelStatistics statistics{};
    GradientInputs gradient;
};
constexpr std::int64_t kMostAlongBlocks = 16;  // of a channel that these functions take
constexpr int kAlongTogether = 4;  // channels for each load of the parameters, or load and store of their sums

// The functions that depend on how elements are stored.
struct ElementKernels {
    void (*moments)(const MomentsTask&, const BlockRange&, const BlockMoments&) noexcept;
    void (*forward)(const ForwardTask&, const Tile&) noexcept;
    void (*backward_sums)(const BackwardTask&, const BlockRange&, const BlockSums&) noexcept;
    void (*backward)(const BackwardTask&, const Tile&) noexcept;
    // Sums along inner, of weighted dz.
    void (*backward_sums_along)(const BackwardTask&, const BlockRange&, const BlockSums&,
                                const ParameterSums&) noexcept;
    // Channels [begin, end). The sums of the parameters are added to what is there.
    void (*forward_along)(const AlongForwardTask&, std::int64_t begin, std::int64_t end) noexcept;
    void (*backward_along)(const AlongBackwardTask&, std::int64_t begin, std::int64_t end,
                           const ParameterSums&) noexcept;
    // Elements [begin, end) of each channel in [channel_begin, channel_end).
    void (*prologue)(const PrologueTask&, const Geometry&, const Tile&) noexcept;
    void (*dropout)(const DropoutRun&) noexcept;
};

struct KernelTable {
    const char* name;
    ElementKernels elements[4];  // by DType

    // Merges the blocks of `width` channels into block 0; counts[block] are their sizes.
    void (*merge_moments)(const BlockMoments&, const double* counts, std::int64_t blocks, std::int64_t pitch,
                          std::int64_t width) noexcept;
    void (*merge_sums)(const BlockSums&, std::int64_t blocks, std::int64_t pitch, std::int64_t width) noexcept;
    void (*invstd)(const double* m2, const double* count, double eps, EpsPlacement placement, std::int64_t channels,
                   double* invstd) noexcept;
    // Fills the arrays, inverse and the centre of sums where they are wanted, and says whether some channel needs its
    // prescale.
    void (*forward_coefficients)(const AffineInputs&, bool is_double, std::int64_t channels, AffineArrays&,
                                 const SumsCentre&) noexcept;
    void (*gradient_coefficients)(const GradientInputs&, bool is_double, std::int64_t channels, const AffineArrays&,
                                  const GradientArrays&) noexcept;
    // 16 bytes of mask bits a group of 128 mask elements; mask.keep neither drops nor keeps all.
    void (*mask_bits)(const DropoutMask& mask, std::uint64_t first_group, std::int64_t groups,
                      std::uint8_t* out) noexcept;
    // Streams: dst[i] = sum over k of sources[k][i], the bandwidth floor of bench/.
    void (*stream_sum)(float* dst, const float* const* sources, int num_sources, std::int64_t n) noexcept;
};

}  // namespace bnfast::cpu
