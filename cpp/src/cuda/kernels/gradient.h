// For one element of backward: x, x - mean, and dz, the gradient at the output of the affine map. Activations are
// computed again from x (and residual), or x - mean from y where forward wrote y over x (Rota Bulo, Porzi &
// Kontschieder 2018).
#pragma once

#include "cuda/kernels/activation.h"
#include "cuda/kernels/coefficients.h"
#include "cuda/kernels/mask.h"

namespace bnfast::cuda {

template <class W>
class GradientAtAffine {
    using S = typename W::S;
    using T = typename W::T;

  public:
    struct Run {
        const std::uint8_t* where;
        OpenedMask mask;
        typename Parameters<W>::Run parameters;
    };
    // (x - mean) * prescale; dz; and the weight of dz among the elements of its statistic, which is gamma where one
    // statistic serves several of them.
    struct Element {
        T x, centred, dz, weight;
        bool takes_part;
    };

    BNFAST_DEVICE GradientAtAffine(const W& walk, const Coefficients<W>& coefficients, const Parameters<W>& parameters)
        : walk_(walk),
          coefficients_(coefficients),
          parameters_(parameters),
          dropper_(walk, walk.task.mask),
          activation_{walk.task.activation, static_cast<T>(walk.task.slope)} {}

    BNFAST_DEVICE Run open(const Place& p) const {
        return {walk_.open_where(p), dropper_.open(p), parameters_.open(p)};
    }
    // Element e of a vector, from those of x, dy and residual.
    BNFAST_DEVICE Element at(const Run& run, std::int64_t i, std::int64_t slot, int e, S x, S dy, S residual) const {
        const NormTask& task = walk_.task;
        const auto& affine = coefficients_.affine(e);
        const bool weighted = parameters_.used();
        Element a{decode(x), T(0), decode(dy), T(1), walk_.takes_part(run.where, i, e)};
        if (weighted) a.weight = parameters_.gamma(run.parameters, i, slot, e);
        const auto beta = [&] { return parameters_.beta(run.parameters, i, slot, e); };
        if (!W::kPlain && task.from_output) {
            Undone<T> undone = activation_.undo(a.x);
            a.dz = a.dz * undone.derivative;
            if (weighted) undone.z = (undone.z - beta()) * numerics::inverse_scale<T>(numerics::widen(a.weight));
            a.centred = affine.undo(undone.z);
        } else {
            a.centred = affine.centre(a.x);
            if (dropper_.used()) a.dz = dropper_.drop(run.mask, i, e, a.dz);
            if (task.activation != Activation::kNone) {
                T z = affine.apply(a.centred);
                if (weighted) z = numerics::ScaleAndShift<T>{a.weight, beta()}.apply(z);
                if (task.residual.is_there()) z = z + decode(residual);
                a.dz = activation_.backward(z, a.dz);
            }
        }
        if (!a.takes_part) a.dz = T(0);
        return a;
    }
    // x - mean with the scale of gamma 1, as dgamma has it.
    BNFAST_DEVICE T normalised(const Element& a, int e) const { return a.centred * coefficients_.affine(e).scale; }

  private:
    const W& walk_;
    const Coefficients<W>& coefficients_;
    const Parameters<W>& parameters_;
    Dropper<W> dropper_;
    ActivationOf<T, W::kPlain> activation_;
};

}  // namespace bnfast::cuda
