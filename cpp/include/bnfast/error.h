// The two kinds of bad argument: a wrong value, shape or overlap, and a wrong kind or dtype.
#pragma once

#include <stdexcept>
#include <string>

#include "bnfast/export.h"

namespace bnfast {

struct BNFAST_API ValueError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};
struct BNFAST_API TypeError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

}  // namespace bnfast
