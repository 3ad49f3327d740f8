// What a normalization computes beyond its tensors: the activation, eps and where it goes, dropout.
#pragma once

#include <cstdint>

namespace bnfast {

enum class Activation : int { kNone, kRelu, kLeakyRelu, kSigmoid, kTanh, kSilu, kGelu, kElu };

// Where eps goes: sqrt(var + eps) or sqrt(var) + eps.
enum class EpsPlacement : int { kVar, kStd };

// Over which elements a pair of statistics is taken.
enum class Scope : int {
    kBatch,     // all of a channel: batch norm
    kGroup,     // those of a group of neighbouring channels in one sample (axis 0): group norm, instance norm
    kLastAxes,  // those of the last axes, for each index of the others: layer norm, RMS norm
};

// About what deviations are taken: the mean, or zero (RMS norm), where the mean square stands for the variance.
enum class Centre : int { kMean, kZero };

struct NormOptions {
    int axis = 1;  // of the channels, or the first of the last axes that are normalised together; -1 is the last one
    double eps = 1e-5;
    EpsPlacement eps_placement = EpsPlacement::kVar;
    Activation activation = Activation::kNone;
    double activation_slope = 0.01;  // of leaky ReLU below zero
    double dropout = 0.0;            // rate; inverted scaling, mask as in bnfast/dropout.h. Before the norm in layer
                                     // and RMS norm, behind the activation in the others.
    std::uint64_t seed = 0, offset = 0;
};

}  // namespace bnfast
