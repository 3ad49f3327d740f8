// Batch norm of oneDNN's C++ API behind a few C functions, for bench/peer_onednn.py, which mirrors Request.
#include <omp.h>

#include <cstdint>
#include <exception>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <unordered_map>

namespace {

using dnnl::memory;
using Forward = dnnl::batch_normalization_forward;
using Backward = dnnl::batch_normalization_backward;

enum Kind : std::int32_t { kForward, kBackward, kInference };
enum Layout : std::int32_t { kPlanes, kRows, kBlocked };
enum Dtype : std::int32_t { kFloat32, kFloat16, kBfloat16 };

struct Request {
    std::int32_t kind, layout, dtype, relu, threads;
    float eps;
    std::int64_t batch, channels, height, width;  // height 0: an (N, C) array
    void *x, *dy, *out;                           // planes or rows; a blocked layout has memory of its own
    void *gamma, *beta, *mean, *var;              // float32, an entry a channel
};

struct Plan {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    memory::desc plain;  // of the caller's arrays
    memory result;
    dnnl::primitive primitive;
    std::unordered_map<int, memory> arguments;
};

thread_local std::string last_error;

memory::data_type data_type(std::int32_t dtype) {
    if (dtype == kFloat16) return memory::data_type::f16;
    return dtype == kBfloat16 ? memory::data_type::bf16 : memory::data_type::f32;
}

memory::format_tag widest_block() {
    const auto avx512 = static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
    const bool wide = (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & avx512) == avx512;
    return wide ? memory::format_tag::nChw16c : memory::format_tag::nChw8c;
}

memory::desc tensor(const Request& r, std::int32_t layout) {
    if (r.height == 0) return {{r.batch, r.channels}, data_type(r.dtype), memory::format_tag::nc};
    memory::format_tag tag = widest_block();
    if (layout != kBlocked) tag = layout == kRows ? memory::format_tag::nhwc : memory::format_tag::nchw;
    return {{r.batch, r.channels, r.height, r.width}, data_type(r.dtype), tag};
}

// The caller's array, or for a blocked layout a copy of it.
memory operand(Plan& plan, const memory::desc& desc, void* array) {
    memory given(plan.plain, plan.engine, array);
    if (desc == plan.plain) return given;
    memory own(desc, plan.engine);
    dnnl::reorder(given, own).execute(plan.stream, given, own);
    plan.stream.wait();
    return own;
}

void prepare(Plan& plan, const Request& r) {
    omp_set_num_threads(r.threads);
    plan.plain = tensor(r, r.layout == kBlocked ? kPlanes : r.layout);
    const memory::desc desc = tensor(r, r.layout);
    const memory::desc channels({r.channels}, memory::data_type::f32, memory::format_tag::a);
    const bool inference = r.kind == kInference;

    auto flags = dnnl::normalization_flags::use_scale | dnnl::normalization_flags::use_shift;
    if (inference) flags |= dnnl::normalization_flags::use_global_stats;
    if (r.relu) flags |= dnnl::normalization_flags::fuse_norm_relu;
    const auto kind = inference ? dnnl::prop_kind::forward_inference : dnnl::prop_kind::forward_training;
    const Forward::primitive_desc forward(plan.engine, kind, desc, desc, r.eps, flags);

    memory out = operand(plan, desc, r.out);
    auto& arguments = plan.arguments;
    arguments[DNNL_ARG_SRC] = operand(plan, desc, r.x);
    arguments[DNNL_ARG_DST] = out;
    arguments[DNNL_ARG_SCALE] = memory(channels, plan.engine, r.gamma);
    arguments[DNNL_ARG_SHIFT] = memory(channels, plan.engine, r.beta);
    arguments[DNNL_ARG_MEAN] = inference ? memory(channels, plan.engine, r.mean) : memory(channels, plan.engine);
    arguments[DNNL_ARG_VARIANCE] = inference ? memory(channels, plan.engine, r.var) : memory(channels, plan.engine);
    if (r.relu && !inference) arguments[DNNL_ARG_WORKSPACE] = memory(forward.workspace_desc(), plan.engine);
    plan.primitive = Forward(forward);
    plan.result = out;
    if (r.kind != kBackward) return;

    // Statistics and ReLU's mask come from a forward pass.
    plan.primitive.execute(plan.stream, arguments);
    plan.stream.wait();
    const Backward::primitive_desc backward(plan.engine, dnnl::prop_kind::backward, desc, desc, desc, r.eps, flags,
                                            forward);
    arguments.erase(DNNL_ARG_DST);
    arguments.erase(DNNL_ARG_SHIFT);
    arguments[DNNL_ARG_DIFF_DST] = operand(plan, desc, r.dy);
    arguments[DNNL_ARG_DIFF_SRC] = out;
    arguments[DNNL_ARG_DIFF_SCALE] = memory(channels, plan.engine);
    arguments[DNNL_ARG_DIFF_SHIFT] = memory(channels, plan.engine);
    plan.primitive = Backward(backward);
}

}  // namespace

extern "C" {

const char* bench_error() { return last_error.c_str(); }

void bench_version(std::int32_t version[3]) {
    const dnnl_version_t* found = dnnl_version();
    version[0] = found->major, version[1] = found->minor, version[2] = found->patch;
}

// Null where oneDNN cannot do what is asked; bench_error then says why.
Plan* bench_prepare(const Request* request) {
    auto* plan = new Plan;
    try {
        prepare(*plan, *request);
        return plan;
    } catch (const std::exception& error) {
        last_error = error.what();
        delete plan;
        return nullptr;
    }
}

void bench_free(Plan* plan) { delete plan; }

// What is timed: the primitive alone.
void bench_run(Plan* plan) {
    plan->primitive.execute(plan->stream, plan->arguments);
    plan->stream.wait();
}

// y or dx in the caller's layout.
void bench_result(Plan* plan, void* array) {
    memory plain(plan->plain, plan->engine, array);
    dnnl::reorder(plan->result, plain).execute(plan->stream, plan->result, plain);
    plan->stream.wait();
}
}
