// A normalization call bound to memory: its tensors as operands, and the boxes of its layout as problems of their own.
#pragma once

#include "cpu/bound_problem.h"
#include "cpu/packing.h"
#include "cpu/scratch.h"
#include "problem/norm_problem.h"

namespace bnfast::cpu {

// Whether a call sums over the elements of statistics, or only treats each by itself.
enum class Walk { kSumming, kElementwise };

class Binding {
  public:
    // The problem must outlive this object. `layout` is that of its elements, in the order in which they are summed or,
    // where there is dropout, counted by the mask.
    Binding(const NormProblem& problem, const Layout& layout, Walk walk);
    Binding(const Binding&) = delete;
    Binding& operator=(const Binding&) = delete;

    std::int64_t boxes() const { return boxes_; }
    // The problem of a box, and the numbers of its statistics among those of the call's.
    BoundProblem problem(std::int64_t box) const;
    Statistics statistics(std::int64_t box) const;
    // To be called when all boxes are done: copies results to where they belong.
    void finish();

  private:
    void bind(Operand BoundProblem::* operand, const TensorView& view, PackedTensor::Use use);
    void merge_boxes();

    const NormProblem& problem_;
    Layout layout_;
    PackedWhere where_;
    Scratch scratch_;     // parameters along inner elements
    BoundProblem first_;  // of box 0
    std::int64_t boxes_;
    // What is bound: to which operand, and from where.
    struct Bound {
        Operand BoundProblem::* operand;
        PackedTensor tensor;
    };
    static constexpr int kMostTensors = 6;  // of a call; no call has all operands
    Bound bound_[kMostTensors];
    int count_ = 0;
};

}  // namespace bnfast::cpu
