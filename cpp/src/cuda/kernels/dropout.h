// Dropout alone, y = kept ? x * scale + shift : dropped; and the mask itself.
#pragma once

#include "bnfast/tensor.h"
#include "cuda/kernels/mask.h"

namespace bnfast::cuda {

struct DropoutTask {
    char *x = nullptr, *y = nullptr;
    // Where element i of the walk is in x, in y and in the mask, in elements. One run: everywhere at i itself.
    Divider size[kMaxDims];  // fastest first
    std::int64_t x_stride[kMaxDims] = {}, y_stride[kMaxDims] = {}, mask_stride[kMaxDims] = {};
    int dims = 0;
    bool one_run = false;
    std::int64_t elements = 0;
    DropoutMask mask;
    double scale = 1.0, shift = 0.0, dropped = 0.0;
};

// A warp has kPortion elements at a time.
constexpr std::int64_t kPortion = 1024;

template <class S, int kCount>
struct DropoutKernel {
    using T = Compute<S>;
    using Vector = Pack<S, kCount>;
    DropoutTask task;

    BNFAST_DEVICE void operator()() const {
        const bool masked = task.mask.keep != 0 && task.mask.keep < kKeepAll;
        const int warps = thread_count() / kWarp, warp = thread_index() / kWarp, lane = thread_index() % kWarp;
        std::uint8_t* const window = reinterpret_cast<std::uint8_t*>(shared_memory()) + warp * window_bytes(kPortion);
        const S* const x = reinterpret_cast<const S*>(task.x);
        S* const y = reinterpret_cast<S*>(task.y);
        for (std::int64_t begin = (block_index() * warps + warp) * kPortion; begin < task.elements;
             begin += block_count() * warps * kPortion) {
            if (masked && task.one_run) fill_window(task.mask, begin, kPortion, window);
            const std::int64_t end = begin + kPortion < task.elements ? begin + kPortion : task.elements;
            for (std::int64_t i = begin + lane * kCount; i < end; i += kWarp * kCount) {
                const Place at = task.one_run ? Place{i, i, i} : place(i);
                const Vector in = load_global<Vector>(x + at.x);
                Vector out;
                for (int e = 0; e < kCount; ++e) {
                    bool kept = task.mask.keep != 0;
                    if (masked) {  // a vector is one element where there are several runs
                        kept = task.one_run ? kept_in_window(window, 0, static_cast<unsigned>(i + e - begin))
                                            : is_kept(task.mask, static_cast<std::uint64_t>(at.mask));
                    }
                    out.element[e] = encode<S>(apply(kept, decode(in.element[e])));
                }
                store_global(y + at.y, out);
            }
        }
    }

  private:
    struct Place {
        std::int64_t x, y, mask;
    };
    BNFAST_DEVICE Place place(std::int64_t i) const {
        Place p{0, 0, 0};
        for (int d = 0; d < task.dims; ++d) {
            const Divided divided = divide(i, task.size[d]);
            p.x += divided.remainder * task.x_stride[d];
            p.y += divided.remainder * task.y_stride[d];
            p.mask += divided.remainder * task.mask_stride[d];
            i = divided.quotient;
        }
        return p;
    }
    BNFAST_DEVICE T apply(bool kept, T x) const {
        if (!kept) return static_cast<T>(task.dropped);
        const T scaled = x * static_cast<T>(task.scale);
        return task.shift == 0.0 ? scaled : scaled + static_cast<T>(task.shift);
    }
};

// A byte for each element: 1 where it is kept.
struct MaskKernel {
    DropoutMask mask;
    IndexMapOf<kMaxDims> place;
    std::int64_t elements = 0;
    std::uint8_t* out = nullptr;

    BNFAST_DEVICE void operator()() const {
        for_each_index(elements, [&](std::int64_t i) {
            const bool kept =
                mask.keep >= kKeepAll || (mask.keep != 0 && is_kept(mask, static_cast<std::uint64_t>(place.at(i))));
            out[i] = kept ? 1 : 0;
        });
    }
};

}  // namespace bnfast::cuda
