// What a forward call leaves for backward, as Python sees it: the arrays of the call, and its state.
#pragma once

#include "arrays.h"
#include "bnfast/batch_norm.h"
#include "bnfast/norms.h"
#include "fast_call.h"
#include "streams.h"

namespace bnfast::bindings {

// The arrays are the caller's own.
struct NormContext {
    // For a forward call on x, of which this is the view, with a state of so many numbers.
    NormContext(const py::handle& array, const ArrayView& view, std::int64_t state_size)
        : x(py::reinterpret_borrow<py::object>(array)),
          library(view.library()),
          stream_owner(view.stream_owner()),
          owner(state_size, view.get().device) {}

    NormState& state() { return owner.state(); }
    const NormState& state() const { return owner.state(); }
    // Float64 numbers of the state in the program's memory.
    std::vector<double> on_host(const double* numbers, std::int64_t count) const;
    bool is_double() const { return state().dtype == DType::kFloat64; }

    py::object x;
    py::object residual = py::none();
    py::object where = py::none();
    const Library* library;   // whose arrays mean, var and invstd are; null: NumPy
    py::object stream_owner;  // outlives the numbers, which are given back in the order of the stream
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

// The tensors of a backward call, with memory for their shapes. `x` and `residual` take the place of the context's
// arrays where they are given.
struct BackwardViews {
    BackwardViews(const char* operation, const NormContext& context, const py::handle& dy,
                  const py::handle& dh = Py_None, const py::handle& x = Py_None, const py::handle& residual = Py_None);
    ArrayView x, residual, where, dy, dh;
    py::object x_array, residual_array, where_array;  // held here: another thread may take them out of the context
    NormBackwardInputs inputs;
    std::optional<UseOnStream> use;  // of the numbers of the context
};

// The results of a backward call: arrays of dy's library, and numbers for the parameters.
class BackwardResults {
  public:
    BackwardResults(const char* operation, const NormContext& context, const BackwardViews& views,
                    const py::handle& out);
    const NormGradients& gradients() const { return gradients_; }
    // An instance of `type`, a named tuple (dx, dgamma, dbeta, dresidual). To be called once.
    py::object take(const NormContext& context, const py::handle& type);

  private:
    NumberArray parameters_;
    OutputArray dx_;
    std::optional<OutputArray> dresidual_;
    Numbers values_;  // dgamma and dbeta
    NormGradients gradients_;
};

}  // namespace bnfast::bindings
