// What a normalization computes beyond its tensors: the activation, eps and where it goes, dropout.
#pragma once

#include <cstdint>

namespace bnfast {

enum class Activation : int { kNone, kRelu, kLeakyRelu, kSigmoid, kTanh, kSilu, kGelu, kElu };

// Where eps goes: sqrt(var + eps) or sqrt(var) + eps.
enum class EpsPlacement : int { kVar, kStd };

// Over which elements a pair of statistics is taken: all of a channel, or those of a channel in one sample (axis 0).
enum class Scope : int { kBatch, kSample };

struct NormOptions {
    int axis = 1;  // of the channels; -1 is the last one
    double eps = 1e-5;
    EpsPlacement eps_placement = EpsPlacement::kVar;
    Activation activation = Activation::kNone;
    double activation_slope = 0.01;  // of leaky ReLU below zero
    double dropout = 0.0;            // rate; inverted scaling, mask as in bnfast/dropout.h
    std::uint64_t seed = 0, offset = 0;
};

}  // namespace bnfast
