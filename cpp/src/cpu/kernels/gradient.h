// For one vector of backward: x, x - mean, and dz, the gradient at the output of the affine map. Activations
// are recomputed from x (and residual), or x - mean from y where forward wrote y over x (Rota Bulo, Porzi &
// Kontschieder 2018).
#pragma once

#include "cpu/kernels/mask_window.h"

namespace bnfast {
namespace BNFAST_TARGET {

// One vector on both sides of the affine: x, (x - mean) * prescale, and dz.
template <class T>
struct AtAffine {
    Vec<T> x, centred, dz;
};
// A run of the inputs, where it is in the dropout mask, and in which slot its bits are; and its parameters, where they
// lie along it.
template <class S, bool kAlongInner = false>
struct GradientRun {
    const S *x, *dy, *residual;
    std::int64_t mask;
    int slot = 0;
    AlongRun<Compute<S>> along{};
};
template <class S, bool kAlongInner = false>
BNFAST_INLINE GradientRun<S, kAlongInner> open_inputs(const BackwardTask& task, const MaskIndex& index,
                                                      const Position& p) {
    GradientRun<S, kAlongInner> run{at<S>(task.x, p), at<S>(task.dy, p), at_if_any<S>(task.residual, p), index.of(p)};
    if constexpr (kAlongInner) run.along = open_along<Compute<S>>(task.along, task.geometry, p);
    return run;
}
template <class S, bool kAlongInner, class Loop, class Lanes>
BNFAST_INLINE AtAffine<Compute<S>> at_affine(const Loop& loop, const Dropper<Compute<S>>& dropper,
                                             const GradientRun<S, kAlongInner>& run, std::int64_t i, Lanes lanes,
                                             const Affine<Compute<S>>& affine) {
    using T = Compute<S>;
    const Vec<T> x = lanes.load(run.x + i), centred = affine.centre(x);
    Vec<T> dz = lanes.load(run.dy + i);
    if (Loop::drops(dropper.used)) dz = dropper.drop(run.mask + i, dz, run.slot);
    Vec<T> z = affine.apply(centred);
    if constexpr (kAlongInner) z = run.along.at(i, lanes).apply(z);
    if (run.residual != nullptr) z = z + lanes.load(run.residual + i);
    return {x, centred, backward_through(loop.activation, z, dz)};
}

// The same in the stages of a general loop: z (or y) and dz of some elements, and what comes of them.
template <class T>
struct Stage {
    T z[kStaged], dz[kStaged];
};
template <class S, bool kAlongInner, class Lanes>
BNFAST_INLINE void put_on_stage(const GeneralLoop<Compute<S>>& loop, const Dropper<Compute<S>>& dropper,
                                const GradientRun<S, kAlongInner>& run, std::int64_t i, Lanes lanes,
                                const Affine<Compute<S>>& affine, Stage<Compute<S>>& stage, std::int64_t k) {
    using T = Compute<S>;
    Vec<T> z = lanes.load(run.x + i), dz = lanes.load(run.dy + i);
    if (!loop.from_output) {
        if (dropper.used) dz = dropper.drop(run.mask + i, dz, run.slot);
        z = affine.apply(affine.centre(z));
        if constexpr (kAlongInner) z = run.along.at(i, lanes).apply(z);
        if (run.residual != nullptr) z = z + lanes.load(run.residual + i);
    }
    store(stage.z + k, z);
    store(stage.dz + k, dz);
}
template <class S, bool kAlongInner, class Lanes>
BNFAST_INLINE AtAffine<Compute<S>> from_stage(const GeneralLoop<Compute<S>>& loop,
                                              const GradientRun<S, kAlongInner>& run, std::int64_t i, Lanes lanes,
                                              const Affine<Compute<S>>& affine, const Stage<Compute<S>>& stage,
                                              std::int64_t k) {
    const Vec<Compute<S>> x = lanes.load(run.x + i), dz = load(stage.dz + k);
    if (!loop.from_output) return {x, affine.centre(x), dz};
    Vec<Compute<S>> z = load(stage.z + k);
    if constexpr (kAlongInner) z = run.along.undo(i, lanes, z);
    return {x, affine.undo(z), dz};
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
