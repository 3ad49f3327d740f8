// What a forward call leaves for backward, as Python sees it: the arrays of the call, and its state.
#pragma once

#include "arrays.h"
#include "bnfast/batch_norm.h"
#include "bnfast/norms.h"
#include "fast_call.h"

namespace bnfast::bindings {

// The arrays are the caller's own.
struct NormContext {
    // For a forward call on x, with a state of so many numbers.
    NormContext(const py::handle& array, std::int64_t state_size)
        : x(py::reinterpret_borrow<py::array>(array)), owner(state_size) {}

    NormState& state() { return owner.state(); }
    const NormState& state() const { return owner.state(); }
    bool is_double() const { return state().dtype == DType::kFloat64; }

    py::array x;
    py::object residual = py::none();
    py::object where = py::none();
    OwnedNormState owner;
};
// Contexts of batch norm, and of the norms whose statistics are a sample's own. Those of layer and RMS norm have h for
// x, and no residual, as it is in h.
struct BatchNormContext : NormContext {
    using NormContext::NormContext;
};
struct SampleNormContext : NormContext {
    using NormContext::NormContext;
};

// The tensors of a backward call, with memory for their shapes.
struct BackwardViews {
    BackwardViews(const char* operation, const NormContext& context, const py::handle& dy,
                  const py::handle& dh = Py_None);
    ArrayView x, residual, where, dy, dh;
    NormBackwardInputs inputs;
};

// The results of a backward call: arrays, and numbers for the parameters.
class BackwardResults {
  public:
    BackwardResults(const char* operation, const NormContext& context, const BackwardViews& views,
                    const py::handle& out);
    const NormGradients& gradients() const { return gradients_; }
    // An instance of `type`, a named tuple (dx, dgamma, dbeta, dresidual). To be called once.
    py::object take(const NormContext& context, const py::handle& type);

  private:
    ArrayView dx_view_, dresidual_view_;
    py::array dx_;
    py::object dresidual_ = py::none();
    std::unique_ptr<double[]> values_;  // dgamma and dbeta
    NormGradients gradients_;
};

}  // namespace bnfast::bindings
