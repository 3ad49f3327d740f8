// The kernels of one target for one way to store elements; compiled once for each pair.
#include "cpu/kernels/backward.h"
#include "cpu/kernels/dropout.h"
#include "cpu/kernels/forward.h"
#include "cpu/kernels/moments.h"

namespace bnfast {
namespace BNFAST_TARGET {

// BNFAST_ELEMENT is float, double, Half or BFloat16. The name carries it, as in elements_of_Half().
#define BNFAST_JOIN_(a, b) a##b
#define BNFAST_JOIN(a, b) BNFAST_JOIN_(a, b)

cpu::ElementKernels BNFAST_JOIN(elements_of_, BNFAST_ELEMENT)() noexcept {
    return {&moments<BNFAST_ELEMENT>, &forward<BNFAST_ELEMENT>, &backward_sums<BNFAST_ELEMENT>,
            &backward<BNFAST_ELEMENT>, &dropout<BNFAST_ELEMENT>};
}

}  // namespace BNFAST_TARGET
}  // namespace bnfast
