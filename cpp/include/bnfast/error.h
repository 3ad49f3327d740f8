// The two kinds of bad argument: a wrong value, shape or overlap, and a wrong kind or dtype.
#pragma once

#include <stdexcept>
#include <string>

namespace bnfast {

struct ValueError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};
struct TypeError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

}  // namespace bnfast
