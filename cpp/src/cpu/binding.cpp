// A normalization call bound to memory: its tensors as operands, and the boxes of its layout as problems of their own.
#include "cpu/binding.h"

#include "cpu/parameters.h"

namespace bnfast::cpu {

Binding::Binding(const NormProblem& problem, const Layout& layout, Walk walk)
    : problem_(problem), layout_(layout), boxes_(layout.samples) {
    const Epilogue& epilogue = problem.epilogue;
    using Use = PackedTensor::Use;
    struct Tensor {
        Operand BoundProblem::* operand;
        const TensorView* view;
        Use use;
    };
    const auto pointer = [](const std::optional<TensorView>& view) { return view ? &*view : nullptr; };
    const Tensor tensors[] = {{problem.h ? &BoundProblem::input : &BoundProblem::x, &problem.x, Use::kRead},
                              {&BoundProblem::input_residual, pointer(problem.prologue.residual), Use::kRead},
                              {&BoundProblem::x, pointer(problem.h), Use::kWrite},
                              {&BoundProblem::residual, pointer(epilogue.residual), Use::kRead},
                              {&BoundProblem::y, pointer(problem.y), Use::kWrite},
                              {&BoundProblem::dy, pointer(problem.dy), Use::kRead},
                              {&BoundProblem::dh, pointer(problem.dh), Use::kRead},
                              {&BoundProblem::dx, pointer(problem.dx), Use::kWrite},
                              {&BoundProblem::dresidual, pointer(problem.dresidual), Use::kWrite}};
    if (problem.where) where_ = pack_where(*problem.where, problem.x, layout);
    bool flat = !problem.where && numerics::goes_flat(layout.geometry, walk == Walk::kSumming);
    // What is only normalised may lie with gaps, and is then not walked flat: no sum is taken whose bits would depend
    // on that.
    for (const Tensor& tensor : tensors) {
        if (walk == Walk::kElementwise && tensor.view != nullptr) flat = flat && runs_touch(*tensor.view, layout_);
    }
    layout_.geometry.flat = flat;
    first_.dtype = problem.x.dtype;
    first_.geometry = layout_.geometry;
    first_.share = layout.share;
    first_.centre = problem.centre;
    first_.prologue.used = problem.prologue.used;
    first_.prologue.dropout = problem.prologue.dropout;
    first_.prologue.dropout_scale = problem.prologue.dropout_scale;
    first_.where = where_.bits;
    first_.activation = epilogue.activation;
    first_.activation_slope = epilogue.activation_slope;
    first_.from_output = problem.from_output;
    first_.dropout = epilogue.dropout;
    first_.dropout_scale = epilogue.dropout_scale;
    first_.eps = problem.eps;
    first_.eps_placement = problem.eps_placement;
    for (const Tensor& tensor : tensors) {
        if (tensor.view != nullptr) bind(tensor.operand, *tensor.view, tensor.use);
    }
    if (layout.parameters == ParameterMap::kAlongInner) first_.along = parameters_along(scratch_, problem);
    merge_boxes();
    first_.all_channels = first_.geometry.channels;
}

void Binding::bind(Operand BoundProblem::* operand, const TensorView& view, PackedTensor::Use use) {
    Bound& bound = bound_[count_++];
    bound.operand = operand;
    bound.tensor.bind(view, layout_, use);
    first_.*operand = bound.tensor.operand();
}

// Planes of which each has statistics of its own are one box, where each sample begins where the one before ends.
void Binding::merge_boxes() {
    const Geometry& g = first_.geometry;
    bool merge = boxes_ > 1 && g.outer == 1 && !g.rows;
    for (int k = 0; k < count_; ++k) {
        const PackedTensor& tensor = bound_[k].tensor;
        const std::int64_t sample = tensor.sample_stride();
        merge = merge && sample == g.channels * tensor.operand().channel_stride;
        // A single channel has any stride. Walked flat, the planes of the samples must touch as those of channels do.
        merge = merge && (!g.flat || sample == g.channels * g.inner);
    }
    if (!merge) return;
    first_.geometry.channels *= boxes_;
    boxes_ = 1;
}

BoundProblem Binding::problem(std::int64_t box) const {
    BoundProblem result = first_;
    if (box == 0) return result;
    const std::int64_t item = item_size(first_.dtype);
    for (int k = 0; k < count_; ++k) {
        Operand& operand = result.*bound_[k].operand;
        operand.data = static_cast<char*>(operand.data) + box * bound_[k].tensor.sample_stride() * item;
    }
    result.first_channel = box * first_.geometry.outer * first_.geometry.channels;
    return result;
}

Statistics Binding::statistics(std::int64_t box) const {
    const StateNumbers& state = problem_.numbers;
    Statistics all;
    all.count = state.count();
    all.mean = state.mean();
    all.mean_low = state.mean_low();
    all.m2 = state.m2();
    all.invstd = state.invstd();
    all.gamma = state.gamma();
    all.beta = state.beta();
    all.parameters = state.parameters;
    all.share = first_.share;
    return all.from(box * first_.geometry.channels);
}

void Binding::finish() {
    for (int k = 0; k < count_; ++k) bound_[k].tensor.finish();
}

}  // namespace bnfast::cpu
