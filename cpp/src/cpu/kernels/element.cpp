// The kernels of one target for one way to store elements; compiled once for each pair.
#include "cpu/kernels/along_backward.h"
#include "cpu/kernels/along_forward.h"
#include "cpu/kernels/backward.h"
#include "cpu/kernels/dropout.h"
#include "cpu/kernels/forward.h"
#include "cpu/kernels/moments.h"
#include "cpu/kernels/prologue.h"

namespace bnfast {
namespace BNFAST_TARGET {

// BNFAST_ELEMENT is float, double, Half or BFloat16. The name carries it, as in elements_of_Half().
#define BNFAST_JOIN_(a, b) a##b
#define BNFAST_JOIN(a, b) BNFAST_JOIN_(a, b)

cpu::ElementKernels BNFAST_JOIN(elements_of_, BNFAST_ELEMENT)() noexcept {
    cpu::ElementKernels kernels;
    kernels.moments = &moments<BNFAST_ELEMENT>;
    kernels.forward = &forward<BNFAST_ELEMENT>;
    kernels.backward_sums = &backward_sums<BNFAST_ELEMENT>;
    kernels.backward = &backward<BNFAST_ELEMENT>;
    kernels.forward_along = &forward_along<BNFAST_ELEMENT>;
    kernels.backward_sums_along = &backward_sums_along<BNFAST_ELEMENT>;
    kernels.backward_along = &backward_along<BNFAST_ELEMENT>;
    kernels.prologue = &prologue<BNFAST_ELEMENT>;
    kernels.dropout = &dropout<BNFAST_ELEMENT>;
    return kernels;
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
