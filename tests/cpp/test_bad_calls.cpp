// Bad calls of the C++ interface: each is a ValueError or a TypeError before anything is written.
#include "bad_calls.h"

namespace {

using namespace bad_calls;

// --- calls, spoilt in one place ---------------------------------------------------------------------------------

using Spoil = std::function<void(Arena&)>;

std::function<void(Arena&)> forward(const Spoil& spoil) {
    return [=](Arena& a) {
        TensorView y = Arena::tensor(a.y);
        spoil(a);
        batch_norm(a.inputs, a.options, y, a.saved.state());
    };
}
std::function<void(Arena&)> forward_to(const std::function<void(Arena&, TensorView&)>& spoil) {
    return [=](Arena& a) {
        TensorView y = Arena::tensor(a.y);
        spoil(a, y);
        batch_norm(a.inputs, a.options, y, a.saved.state());
    };
}
std::function<void(Arena&)> backward(const Spoil& spoil) {
    return [=](Arena& a) {
        spoil(a);
        batch_norm_backward(a.backward, a.saved.state(), a.gradients);
    };
}
std::function<void(Arena&)> inference(const std::function<void(Arena&, TensorView& mean, TensorView& var)>& spoil) {
    return [=](Arena& a) {
        TensorView mean = Arena::vector(a.mean), var = Arena::vector(a.var);
        spoil(a, mean, var);
        batch_norm_inference(a.inputs, mean, var, a.options, Arena::tensor(a.y));
    };
}

void check_forward() {
    const char* const op = "batch_norm";
    expect<ValueError>(op, "x has no data", forward([](Arena& a) { a.inputs.x.data = nullptr; }));
    expect<ValueError>(op, "x has no shape", forward([](Arena& a) { a.inputs.x.shape = nullptr; }));
    expect<ValueError>(op, "no strides", forward([](Arena& a) { a.inputs.x.strides = nullptr; }));
    expect<ValueError>(op, "-1 dimensions", forward([](Arena& a) { a.inputs.x.ndim = -1; }));
    expect<ValueError>(op, "65 dimensions", forward([](Arena& a) { a.inputs.x.ndim = kMaxDims + 1; }));
    expect<ValueError>(op, "at least one dimension", forward([](Arena& a) { a.inputs.x.ndim = 0; }));
    expect<ValueError>(op, "x has shape (3, -1, 5)", forward([](Arena& a) { a.inputs.x.shape = kNegativeShape; }));
    expect<ValueError>(op, "beyond all memory", forward([](Arena& a) {
                           static constexpr std::int64_t kFar[] = {std::numeric_limits<std::int64_t>::min(), 20, 4};
                           a.inputs.x.strides = kFar;
                       }));
    expect<ValueError>(op, "product", forward([](Arena& a) { a.inputs.x.shape = kHugeShape; }));
    expect<TypeError>(op, "x has dtype bool", forward([](Arena& a) { a.inputs.x.dtype = DType::kBool; }));
    expect<TypeError>(op, "dtype number 9", forward([](Arena& a) { a.inputs.x.dtype = static_cast<DType>(9); }));
    expect<ValueError>(op, "x is on cuda:1", forward([](Arena& a) { a.inputs.x.device = {Device::Type::kCuda, 1}; }));
    expect<ValueError>(op, "axis is 3", forward([](Arena& a) { a.options.axis = 3; }));
    expect<ValueError>(op, "axis is -4", forward([](Arena& a) { a.options.axis = -4; }));
    expect<ValueError>(op, "eps is -1", forward([](Arena& a) { a.options.eps = -1.0; }));
    expect<ValueError>(op, "eps is nan", forward([](Arena& a) { a.options.eps = std::nan(""); }));
    expect<ValueError>(op, "activation_slope is inf",
                       forward([](Arena& a) { a.options.activation_slope = std::numeric_limits<double>::infinity(); }));
    expect<ValueError>(op, "activation is number 99",
                       forward([](Arena& a) { a.options.activation = static_cast<Activation>(99); }));
    expect<ValueError>(op, "eps_placement is number 5",
                       forward([](Arena& a) { a.options.eps_placement = static_cast<EpsPlacement>(5); }));
    expect<ValueError>(op, "dropout is 1.5", forward([](Arena& a) { a.options.dropout = 1.5; }));
    expect<ValueError>(op, "gamma has no data", forward([](Arena& a) { a.inputs.gamma->data = nullptr; }));
    expect<ValueError>(op, "gamma has shape (3,)", forward([](Arena& a) { a.inputs.gamma->shape = kShortShape; }));
    expect<TypeError>(op, "gamma has dtype float16",
                      forward([](Arena& a) { a.inputs.gamma->dtype = DType::kFloat16; }));
    expect<ValueError>(op, "gamma is on cuda:0",
                       forward([](Arena& a) { a.inputs.gamma->device.type = Device::Type::kCuda; }));
    expect<ValueError>(op, "beta has shape", forward([](Arena& a) { a.inputs.beta->shape = kShortShape; }));
    expect<ValueError>(op, "residual has shape (3, 4, 4)", forward([](Arena& a) {
                           a.inputs.residual = view_of(a.residual.data(), kOtherShape, kStrides, 3);
                       }));
    expect<TypeError>(op, "residual has dtype float64", forward([](Arena& a) {
                          a.inputs.residual = view_of(a.residual.data(), kShape, kStrides, 3, DType::kFloat64);
                      }));
    expect<ValueError>(op, "residual has no data",
                       forward([](Arena& a) { a.inputs.residual = view_of(nullptr, kShape, kStrides, 3); }));
    expect<ValueError>(op, "where has shape (2, 1, 5)", forward([](Arena& a) {
                           a.inputs.where = a.where_view();
                           a.inputs.where->shape = kWrongWhereShape;
                       }));
    expect<TypeError>(op, "where has dtype float32", forward([](Arena& a) { a.inputs.where = Arena::tensor(a.x); }));
    expect<ValueError>(op, "where has no data", forward([](Arena& a) {
                           a.inputs.where = a.where_view();
                           a.inputs.where->data = nullptr;
                       }));
    expect<ValueError>(op, "state.values is null", forward([](Arena& a) { a.saved.state().values = nullptr; }));
    expect<ValueError>(op, "room for 27 numbers", forward([](Arena& a) { a.saved.state().capacity = 27; }));

    expect<ValueError>(op, "out has no data", forward_to([](Arena&, TensorView& y) { y.data = nullptr; }));
    expect<ValueError>(op, "out has shape", forward_to([](Arena&, TensorView& y) { y.shape = kOtherShape; }));
    expect<TypeError>(op, "out has dtype", forward_to([](Arena&, TensorView& y) { y.dtype = DType::kFloat16; }));
    expect<ValueError>(op, "share memory", forward_to([](Arena&, TensorView& y) { y.strides = kOverlapping; }));
    expect<ValueError>(op, "out overlaps x", forward_to([](Arena& a, TensorView& y) { y.data = a.x.data() + 1; }));
    expect<ValueError>(op, "out is on cuda:0",
                       forward_to([](Arena&, TensorView& y) { y.device.type = Device::Type::kCuda; }));
    expect<ValueError>(op, "out overlaps residual", forward_to([](Arena& a, TensorView& y) {
                           a.inputs.residual = Arena::tensor(a.residual);
                           y.data = a.residual.data();
                       }));
    expect<ValueError>(op, "no residual", forward_to([](Arena& a, TensorView& y) {
                           a.inputs.residual = Arena::tensor(a.residual);
                           y = a.inputs.x;
                       }));
    expect<ValueError>(op, "activation None", forward_to([](Arena& a, TensorView& y) {
                           a.options.activation = Activation::kRelu;
                           y = a.inputs.x;
                       }));
    expect<ValueError>(op, "gamma is 0 in channel 2", forward_to([](Arena& a, TensorView& y) {
                           a.gamma[2] = 0.0F;
                           y = a.inputs.x;
                       }));
}

void check_given_statistics() {
    const auto with_stats = [](const Spoil& spoil) {
        return [=](Arena& a) {
            spoil(a);
            batch_norm_with_stats(a.inputs, a.options, a.stats, Arena::tensor(a.y), a.saved.state());
        };
    };
    expect<ValueError>("batch_norm", "stats has 3 channels", with_stats([](Arena& a) { a.stats.count.pop_back(); }));
    expect<ValueError>("batch_norm", "stats has 0 channels", with_stats([](Arena& a) { a.stats.m2.clear(); }));
    expect<ValueError>("batch_norm", "stats counts no element", with_stats([](Arena& a) { a.stats.count[1] = 0; }));
    expect<ValueError>("batch_norm", "stats counts -1", with_stats([](Arena& a) { a.stats.count[2] = -1; }));
    expect<ValueError>("batch_norm", "stats has m2 -1", with_stats([](Arena& a) { a.stats.m2[0] = -1; }));

    const char* const op = "batch_norm_inference";
    expect<ValueError>(op, "mean has no data",
                       inference([](Arena&, TensorView& mean, TensorView&) { mean.data = nullptr; }));
    expect<ValueError>(op, "mean has shape", inference([](Arena&, TensorView& mean, TensorView&) { mean.ndim = 0; }));
    expect<TypeError>(op, "var has dtype bfloat16",
                      inference([](Arena&, TensorView&, TensorView& var) { var.dtype = DType::kBFloat16; }));
    expect<ValueError>(op, "var has shape",
                       inference([](Arena&, TensorView&, TensorView& var) { var.shape = kShortShape; }));
    expect<ValueError>(op, "var is -2 in channel 3",
                       inference([](Arena& a, TensorView&, TensorView&) { a.var[3] = -2.0F; }));
    expect<ValueError>(op, "out overlaps mean",
                       inference([](Arena& a, TensorView& mean, TensorView&) { mean.data = a.y.data(); }));
    expect<ValueError>("batch_norm_frozen", "room for 1 numbers", [](Arena& a) {
        a.saved.state().capacity = 1;
        batch_norm_frozen(a.inputs, Arena::vector(a.mean), Arena::vector(a.var), a.options, Arena::tensor(a.y),
                          a.saved.state());
    });
    expect<ValueError>("moments", "x has no data", [](Arena& a) {
        a.inputs.x.data = nullptr;
        moments(a.inputs.x, std::nullopt, 1);
    });
    expect<TypeError>("moments", "where has dtype float32",
                      [](Arena& a) { moments(a.inputs.x, Arena::tensor(a.dy), 1); });
    expect<ValueError>("batch_norm_state_size", "axis is 7", [](Arena& a) { batch_norm_state_size(a.inputs.x, 7); });
}

void check_backward() {
    const char* const op = "batch_norm_backward";
    expect<ValueError>(op, "x has no data", backward([](Arena& a) { a.backward.x.data = nullptr; }));
    expect<ValueError>(op, "x has shape (3, 4, 4)", backward([](Arena& a) { a.backward.x.shape = kOtherShape; }));
    expect<ValueError>(op, "dtype float64, expected", backward([](Arena& a) { a.backward.x.dtype = DType::kFloat64; }));
    expect<ValueError>(op, "a state that a forward call has filled",
                       backward([](Arena& a) { a.saved.state() = NormState{}; }));
    expect<ValueError>(op, "state.values is null", backward([](Arena& a) { a.saved.state().values = nullptr; }));
    expect<ValueError>(op, "another normalization's", backward([](Arena& a) { a.saved.state().statistics = 12; }));
    expect<ValueError>(op, "dy has no data", backward([](Arena& a) { a.backward.dy.data = nullptr; }));
    expect<ValueError>(op, "dy has shape", backward([](Arena& a) { a.backward.dy.shape = kOtherShape; }));
    expect<TypeError>(op, "dy has dtype", backward([](Arena& a) { a.backward.dy.dtype = DType::kBFloat16; }));
    expect<ValueError>(op, "residual is there",
                       backward([](Arena& a) { a.backward.residual = Arena::tensor(a.residual); }));
    expect<ValueError>(op, "where is there", backward([](Arena& a) { a.backward.where = a.where_view(); }));
    expect<ValueError>(op, "residual is absent", backward([](Arena& a) { a.saved.state().has_residual = true; }));
    expect<ValueError>(op, "out has no data", backward([](Arena& a) { a.gradients.dx.data = nullptr; }));
    expect<ValueError>(op, "out has shape", backward([](Arena& a) { a.gradients.dx.shape = kOtherShape; }));
    expect<ValueError>(op, "out overlaps x", backward([](Arena& a) { a.gradients.dx.data = a.x.data(); }));
    expect<ValueError>(op, "out overlaps dy", backward([](Arena& a) { a.gradients.dx.data = a.dy.data() + 1; }));
    expect<ValueError>(op, "dgamma overlaps dbeta",
                       backward([](Arena& a) { a.gradients.dbeta = a.dgamma.data() + 1; }));
    expect<ValueError>(op, "out overlaps state.values",
                       backward([](Arena& a) { a.gradients.dx.data = a.saved.state().values; }));
    expect<ValueError>(op, "dgamma is null", backward([](Arena& a) { a.gradients.dgamma = nullptr; }));
    expect<ValueError>(op, "dbeta is null", backward([](Arena& a) { a.gradients.dbeta = nullptr; }));
    expect<ValueError>(op, "dresidual is there",
                       backward([](Arena& a) { a.gradients.dresidual = Arena::tensor(a.dresidual); }));
    const auto with_residual = [](const Spoil& spoil) {
        return backward([=](Arena& a) {
            a.saved.state().has_residual = true;
            a.backward.residual = Arena::tensor(a.residual);
            a.gradients.dresidual = Arena::tensor(a.dresidual);
            spoil(a);
        });
    };
    expect<ValueError>(op, "dresidual is absent", with_residual([](Arena& a) { a.gradients.dresidual.reset(); }));
    expect<ValueError>(op, "dresidual has no data",
                       with_residual([](Arena& a) { a.gradients.dresidual->data = nullptr; }));
    expect<ValueError>(op, "dresidual has shape",
                       with_residual([](Arena& a) { a.gradients.dresidual->shape = kOtherShape; }));
    expect<ValueError>(op, "dresidual overlaps out",
                       with_residual([](Arena& a) { a.gradients.dresidual->data = a.dx.data(); }));
    expect<ValueError>(op, "dresidual has elements that share memory",
                       with_residual([](Arena& a) { a.gradients.dresidual->strides = kOverlapping; }));
    expect<ValueError>(op, "sums is None", backward([](Arena& a) { a.saved.state().foreign_stats = true; }));
    expect<ValueError>(op, "sums has 3 channels", [](Arena& a) {
        a.sums.sum_dy.pop_back();
        batch_norm_backward_with_sums(a.backward, a.saved.state(), a.sums, a.gradients);
    });
    expect<ValueError>(op, "sums counts no element", [](Arena& a) {
        a.sums.count[0] = 0;
        batch_norm_backward_with_sums(a.backward, a.saved.state(), a.sums, a.gradients);
    });
    expect<ValueError>("batch_norm_backward_sums", "dy has no data", [](Arena& a) {
        a.backward.dy.data = nullptr;
        batch_norm_backward_sums(a.backward, a.saved.state());
    });
}

void check_other_norms() {
    const auto call = [](const Spoil& spoil) {
        return [=](Arena& a) {
            spoil(a);
            instance_norm(a.inputs, a.options, Arena::tensor(a.y), a.saved.state());
        };
    };
    expect<ValueError>("instance_norm_state_size", "statistics can be memory", [](Arena& a) {
        static constexpr std::int64_t kHostile[] = {std::int64_t{1} << 31, std::int64_t{1} << 31, 0};
        a.inputs.x.shape = kHostile;
        instance_norm_state_size(a.inputs.x, 1);
    });
    expect<ValueError>("instance_norm", "axis is 0", call([](Arena& a) { a.options.axis = 0; }));
    expect<ValueError>("instance_norm", "where is there", call([](Arena& a) { a.inputs.where = a.where_view(); }));
    expect<ValueError>("instance_norm", "room for 28 numbers", call([](Arena& a) { a.saved.state().capacity = 28; }));
    expect<ValueError>("norm_backward", "state is that of a batch norm",
                       [](Arena& a) { norm_backward(a.backward, a.saved.state(), a.gradients); });
    const auto groups = [](std::int64_t count, const Spoil& spoil) {
        return [=](Arena& a) {
            spoil(a);
            group_norm(a.inputs, count, a.options, Arena::tensor(a.y), a.saved.state());
        };
    };
    const auto nothing = [](Arena&) {};
    expect<ValueError>("group_norm", "num_groups is 3", groups(3, nothing));
    expect<ValueError>("group_norm", "num_groups is 0", groups(0, nothing));
    expect<ValueError>("group_norm", "num_groups is -4", groups(-4, nothing));
    expect<ValueError>("group_norm", "axis is 0", groups(1, [](Arena& a) { a.options.axis = 0; }));
    expect<ValueError>("group_norm", "where is there", groups(2, [](Arena& a) { a.inputs.where = a.where_view(); }));
}

void check_layer_norm() {
    // A good call has neither gamma nor beta, and h for its residual.
    const auto call = [](const std::function<void(Arena&, std::optional<TensorView> & h)>& spoil) {
        return [=](Arena& a) {
            a.options.axis = -1;
            a.inputs.gamma.reset();
            a.inputs.beta.reset();
            a.inputs.residual = Arena::tensor(a.residual);
            std::optional<TensorView> h = Arena::tensor(a.dx);
            spoil(a, h);
            layer_norm(a.inputs, a.options, Arena::tensor(a.y), h, a.saved.state());
        };
    };
    using H = std::optional<TensorView>;
    const char* const op = "layer_norm";
    expect<ValueError>(op, "h is absent", call([](Arena&, H& h) { h.reset(); }));
    expect<ValueError>(op, "h is there", call([](Arena& a, H&) { a.inputs.residual.reset(); }));
    expect<ValueError>(op, "h has shape", call([](Arena&, H& h) { h->shape = kOtherShape; }));
    expect<ValueError>(op, "h overlaps out", call([](Arena& a, H& h) { h->data = a.y.data(); }));
    expect<ValueError>(op, "h overlaps x", call([](Arena& a, H& h) { h->data = a.x.data(); }));
    expect<ValueError>(op, "h overlaps residual", call([](Arena& a, H& h) { h->data = a.residual.data(); }));
    expect<ValueError>(op, "h overlaps state.values", call([](Arena& a, H& h) { h->data = a.saved.state().values; }));
    expect<ValueError>(op, "out is x", call([](Arena& a, H&) { a.inputs.x.data = a.y.data(); }));
    expect<ValueError>(op, "gamma has shape (4,)", call([](Arena& a, H&) { a.inputs.gamma = Arena::vector(a.gamma); }));
    expect<ValueError>(op, "axis is 3", call([](Arena& a, H&) { a.options.axis = 3; }));
    expect<ValueError>(op, "where is there", call([](Arena& a, H&) { a.inputs.where = a.where_view(); }));
    expect<ValueError>("rms_norm", "beta is there", [](Arena& a) {
        rms_norm(a.inputs, a.options, Arena::tensor(a.y), std::nullopt, a.saved.state());
    });
    const auto backward = [](const Spoil& spoil) {
        return [=](Arena& a) {
            a.options.axis = -1;
            const std::vector<float> y = a.y;
            NormInputs inputs;
            inputs.x = a.inputs.x;
            layer_norm(inputs, a.options, Arena::tensor(a.y), std::nullopt, a.saved.state());
            a.y = y;
            spoil(a);
            norm_backward(a.backward, a.saved.state(), a.gradients);
        };
    };
    const char* const back = "norm_backward";
    expect<ValueError>(back, "dgamma is null", backward([](Arena& a) { a.gradients.dgamma = nullptr; }));
    expect<ValueError>(back, "residual is there",
                       backward([](Arena& a) { a.backward.residual = Arena::tensor(a.residual); }));
    expect<ValueError>(back, "dresidual is there",
                       backward([](Arena& a) { a.gradients.dresidual = Arena::tensor(a.dresidual); }));
    expect<ValueError>(back, "dh has shape", backward([](Arena& a) {
                           a.backward.dh = view_of(a.residual.data(), kOtherShape, kStrides, 3);
                       }));
    expect<ValueError>(back, "out overlaps dh", backward([](Arena& a) { a.backward.dh = Arena::tensor(a.dx); }));
    expect<ValueError>(back, "another normalization's", backward([](Arena& a) { ++a.saved.state().statistics; }));
}

void check_dropout() {
    const auto call = [](const std::function<void(Arena&, TensorView & x, TensorView & y)>& spoil) {
        return [=](Arena& a) {
            TensorView x = Arena::tensor(a.x), y = Arena::tensor(a.y);
            spoil(a, x, y);
            dropout(x, a.dropping, y);
        };
    };
    const char* const op = "dropout";
    expect<ValueError>(op, "x has no data", call([](Arena&, TensorView& x, TensorView&) { x.data = nullptr; }));
    expect<ValueError>(op, "out has no data", call([](Arena&, TensorView&, TensorView& y) { y.data = nullptr; }));
    expect<ValueError>(op, "out has shape", call([](Arena&, TensorView&, TensorView& y) { y.shape = kOtherShape; }));
    expect<TypeError>(op, "out has dtype", call([](Arena&, TensorView&, TensorView& y) { y.dtype = DType::kFloat64; }));
    expect<ValueError>(op, "out overlaps x",
                       call([](Arena& a, TensorView&, TensorView& y) { y.data = a.x.data() + 1; }));
    expect<ValueError>(op, "rate is -0.5", call([](Arena& a, TensorView&, TensorView&) { a.dropping.rate = -0.5; }));
    expect<ValueError>(op, "rate is nan", call([](Arena& a, TensorView&, TensorView&) { a.dropping.rate = NAN; }));
    expect<ValueError>(op, "mode is number 8",
                       call([](Arena& a, TensorView&, TensorView&) { a.dropping.mode = static_cast<DropoutMode>(8); }));
    expect<ValueError>(op, "broadcast_axes has 3",
                       call([](Arena& a, TensorView&, TensorView&) { a.dropping.broadcast_axes = {3}; }));
    expect<ValueError>(op, "broadcast_axes has -3",
                       call([](Arena& a, TensorView&, TensorView&) { a.dropping.broadcast_axes = {0, -3}; }));
    expect<ValueError>("dropout_backward", "dy has no data", [](Arena& a) {
        dropout_backward(view_of(nullptr, kShape, kStrides, 3), a.dropping, Arena::tensor(a.dx));
    });
    expect<ValueError>("dropout_inference", "rate is 2", [](Arena& a) {
        dropout_inference(Arena::tensor(a.x), 2.0, DropoutMode::kClassic, Arena::tensor(a.y));
    });
    expect<ValueError>("dropout_mask", "mask has no data", [](Arena& a) { dropout_mask({3, 4}, a.dropping, nullptr); });
    expect<ValueError>("dropout_mask", "shape (3, -4)",
                       [](Arena& a) { dropout_mask({3, -4}, a.dropping, a.mask.data()); });
    expect<ValueError>("dropout_mask", "100 dimensions",
                       [](Arena& a) { dropout_mask(std::vector<std::int64_t>(100, 1), a.dropping, a.mask.data()); });
}

void check_runtime() {
    static float numbers[4] = {};
    static const float *const sources[1] = {numbers}, *const missing[1] = {nullptr};
    const char* const op = "stream_sum";
    expect<ValueError>(op, "n is -1", [](Arena&) { stream_sum(numbers, sources, 1, -1, 1); });
    expect<ValueError>(op, "num_sources is 0", [](Arena&) { stream_sum(numbers, sources, 0, 4, 1); });
    expect<ValueError>(op, "num_sources is 9", [](Arena&) { stream_sum(numbers, sources, 9, 4, 1); });
    expect<ValueError>(op, "threads is 0", [](Arena&) { stream_sum(numbers, sources, 1, 4, 0); });
    expect<ValueError>(op, "dst is null", [](Arena&) { stream_sum(nullptr, sources, 1, 4, 1); });
    expect<ValueError>(op, "sources is null", [](Arena&) { stream_sum(numbers, nullptr, 1, 4, 1); });
    expect<ValueError>(op, "a source is null", [](Arena&) { stream_sum(numbers, missing, 1, 4, 1); });
    expect<ValueError>("set_num_threads", "n is 0", [](Arena&) { set_num_threads(0); });
    expect<ValueError>("use_target", "expected one of", [](Arena&) { select_target("abacus"); });
}

}  // namespace

int main() {
    check_forward();
    check_given_statistics();
    check_backward();
    check_other_norms();
    check_layer_norm();
    check_dropout();
    check_runtime();
    std::printf("%d bad calls, %d of them not refused as they should be\n", calls, failures);
    return failures == 0 ? 0 : 1;
}
