// A normalization call bound to memory of a GPU: its tensors as operands, in place or as dense copies.
#include "cuda/binding.h"

#include <algorithm>

#include "cuda/numbers.h"
#include "problem/broadcast.h"
#include "problem/strides.h"

namespace bnfast::cuda {
Dims index_order(const TensorView& view) {
    Dims dims;
    for (int d = 0; d < view.ndim; ++d) dims.push_back(d);
    return dims;
}

void dense_strides(const TensorView& view, std::int64_t unit, std::int64_t* strides) {
    for (int d = view.ndim - 1; d >= 0; --d) {
        strides[d] = unit;
        unit *= view.shape[d];
    }
}

bool lies_on_items(const TensorView& view) {
    const std::int64_t item = item_size(view.dtype);
    bool aligned = reinterpret_cast<std::uintptr_t>(view.data) % static_cast<std::uintptr_t>(item) == 0;
    for (int d = 0; d < view.ndim; ++d) aligned = aligned && (view.shape[d] == 1 || view.strides[d] % item == 0);
    return aligned;
}

// Elements that do not lie as such are copied byte by byte.
void copy_dims(const TensorView& view, const Dims& dims, void* dense, Direction direction, Stream stream) {
    const std::int64_t item = item_size(view.dtype);
    StridedCopy copy;
    copy.strided = view.data;
    copy.dense = dense;
    copy.direction = direction;
    copy.elements = 1;
    for (const int d : dims) copy.elements *= view.shape[d];
    if (lies_on_items(view)) {
        map_dims(dims.begin(), dims.size(), view.shape, view.strides, copy.place);
        return copy_strided(copy, item, stream);
    }
    // One dimension more: the bytes of an element.
    std::int64_t shape[kMaxDims + 1], strides[kMaxDims + 1];
    unsigned char order[kMaxDims + 1];
    int count = 0;
    for (const int d : dims) {
        shape[count] = view.shape[d];
        strides[count] = view.strides[d];
        order[count] = static_cast<unsigned char>(count);
        ++count;
    }
    shape[count] = item;
    strides[count] = 1;
    order[count] = static_cast<unsigned char>(count);
    map_dims(order, count + 1, shape, strides, copy.place);
    copy.elements *= item;
    copy_strided(copy, 1, stream);
}

// --- tensors ----------------------------------------------------------------------------------------------------

BoundTensor::BoundTensor(const TensorView& view, const Layout& layout, Use use, Stream stream)
    : view_(&view), use_(use), stream_(stream), dims_(layout.all_dims()) {
    if (const auto strides = strides_in_place(view, layout)) {
        operand_ = {static_cast<char*>(view.data), strides->sample, strides->outer, strides->channel};
        return;
    }
    const Geometry& g = layout.geometry;
    // An operand shows by its address that it is there, also where it has no elements.
    const std::int64_t bytes = layout.elements() * item_size(view.dtype);
    dense_ = DeviceMemory<char>(bytes > 0 ? bytes : 1, stream);
    operand_ = {dense_.get(), g.outer * g.channels * g.inner, g.channels * g.inner, g.inner};
    if (use == Use::kRead) copy_dims(view, dims_, dense_.get(), Direction::kToDense, stream);
}

void BoundTensor::finish() {
    if (use_ == Use::kWrite && dense_.get() != nullptr) {
        copy_dims(*view_, dims_, dense_.get(), Direction::kFromDense, stream_);
    }
}

DeviceMemory<std::uint8_t> dense_where(const TensorView& where, const TensorView& x, const Layout& layout,
                                       std::int64_t& count) {
    count = layout.geometry.outer * layout.geometry.inner;
    const WhereView view(where, x, layout.axes.axis);
    Dims dims = layout.outer_dims;
    dims.append(layout.inner_dims);
    const Stream stream = stream_of(x);
    DeviceMemory<std::uint8_t> dense(count > 0 ? count : 1, stream);
    copy_dims(view.get(), dims, dense.get(), Direction::kToDense, stream);
    return dense;
}

// --- the call ---------------------------------------------------------------------------------------------------

Binding::Binding(const NormProblem& problem)
    : problem_(problem), layout_(problem.layout), stream_(stream_of(problem.x)) {
    // Where the mask's order has too many dimensions that of x takes its place, and other tensors are copied.
    if (!add_masks()) {
        layout_ = index_layout(problem.x, problem.layout.axes);
        add_masks();
    }
    describe();
    bind_tensors();
}

// Where elements of the walk are in a dropout mask, whose elements are counted by their indices.
bool Binding::add_masks() {
    const Epilogue& epilogue = problem_.epilogue;
    const Prologue& prologue = problem_.prologue;
    std::int64_t strides[kMaxDims];
    dense_strides(problem_.x, 1, strides);
    const auto fill = [&](MaskTask& task, const DropoutMask& mask, double scale) {
        task = MaskTask();
        task.used = mask.keep != kKeepAll;
        task.mask = mask;
        task.scale = scale;
        if (!task.used) return true;
        const Geometry& g = layout_.geometry;
        const Dims &outer = layout_.outer_dims, &inner = layout_.inner_dims, &channels = layout_.channel_dims;
        const std::int64_t* const shape = problem_.x.shape;
        if (layout_.boxes_are_samples()) task.box = strides[0];
        const bool one_axis = !layout_.splits_axis && layout_.axes.scope != Scope::kLastAxes;
        task.channel = one_axis ? strides[channels[0]] : g.inner;
        if (!map_dims(outer.begin(), outer.size(), shape, strides, task.outer)) return false;
        if (layout_.splits_axis) {  // all elements follow each other
            task.along = true;
            return true;
        }
        if (!map_dims(inner.begin(), inner.size(), shape, strides, task.inner)) return false;
        task.along = !g.rows && (task.inner.count == 0 || (task.inner.count == 1 && task.inner.stride[0] == 1));
        return true;
    };
    return fill(task_.mask, epilogue.dropout, epilogue.dropout_scale) &&
           fill(task_.mask_before, prologue.used ? prologue.dropout : DropoutMask{0, 0, kKeepAll},
                prologue.dropout_scale);
}

void Binding::describe() {
    const Geometry& g = layout_.geometry;
    rows_ = g.rows && layout_.share == 1;
    task_.boxes = layout_.samples;
    task_.outer = g.outer;
    task_.channels = g.channels;
    task_.inner = g.inner;
    task_.share = Divider(layout_.share);
    task_.parameter_count = std::max<std::int64_t>(problem_.numbers.parameters, 1);  // it divides
    task_.parameters = layout_.parameters == ParameterMap::kAlongInner ? ParametersAre::kAlongInner
                       : layout_.share > 1                             ? ParametersAre::kOfChannel
                                                                       : ParametersAre::kOfStatistic;
    const StateNumbers& numbers = problem_.numbers;
    if (numbers.values != nullptr) {
        task_.statistics = {numbers.count(),  numbers.mean(),  numbers.mean_low(), numbers.m2(),
                            numbers.invstd(), numbers.gamma(), numbers.beta()};
    }
    task_.centre = problem_.centre;
    task_.eps = problem_.eps;
    task_.placement = problem_.eps_placement;
    task_.activation = problem_.epilogue.activation;
    task_.slope = problem_.epilogue.activation_slope;
    task_.from_output = problem_.from_output;
    task_.constant_statistics = problem_.constant_statistics;
    if (problem_.where) {
        std::int64_t count;
        where_ = dense_where(*problem_.where, problem_.x, layout_, count);
        task_.where = where_.get();
    }
}

void Binding::bind_tensors() {
    const Epilogue& epilogue = problem_.epilogue;
    const auto bind = [&](Operand NormTask::* operand, const TensorView& view, BoundTensor::Use use) {
        bound_[count_] = BoundTensor(view, layout_, use, stream_);
        task_.*operand = bound_[count_++].operand();
    };
    const auto bind_if_any = [&](Operand NormTask::* operand, const std::optional<TensorView>& view,
                                 BoundTensor::Use use) {
        if (view) bind(operand, *view, use);
    };
    using Use = BoundTensor::Use;
    bind(problem_.h ? &NormTask::input : &NormTask::x, problem_.x, Use::kRead);
    bind_if_any(&NormTask::input_residual, problem_.prologue.residual, Use::kRead);
    bind_if_any(&NormTask::x, problem_.h, Use::kWrite);
    // Backward needs the residual only to compute the pre-activation again.
    if (!problem_.dy || epilogue.activation != Activation::kNone) {
        bind_if_any(&NormTask::residual, epilogue.residual, Use::kRead);
    }
    bind_if_any(&NormTask::y, problem_.y, Use::kWrite);
    bind_if_any(&NormTask::dy, problem_.dy, Use::kRead);
    bind_if_any(&NormTask::dh, problem_.dh, Use::kRead);
    bind_if_any(&NormTask::dx, problem_.dx, Use::kWrite);
    bind_if_any(&NormTask::dresidual, problem_.dresidual, Use::kWrite);
    if (!rows_ && layout_.geometry.rows) {
        // Several neighbouring channels of a row have a statistic: they are its inner elements, with a parameter each.
        const std::int64_t share = layout_.share;
        task_.channels /= share;
        task_.inner = share;
        task_.share = Divider(1);
        task_.parameters = ParametersAre::kAlongInner;
        for (Operand NormTask::* operand :
             {&NormTask::x, &NormTask::residual, &NormTask::y, &NormTask::dy, &NormTask::dx, &NormTask::dresidual}) {
            (task_.*operand).channel = share;
        }
        if (task_.mask.used) {
            task_.mask.inner.count = 1;
            task_.mask.inner.size[0] = Divider(share);
            task_.mask.inner.stride[0] = task_.mask.channel;
            task_.mask.along = task_.mask.channel == 1;
            task_.mask.channel *= share;
        }
    }
}

void Binding::finish() {
    for (int k = 0; k < count_; ++k) bound_[k].finish();
}

}  // namespace bnfast::cuda
