// How a C function ends: in a status, and where it failed in a text, whatever C++ threw.
#pragma once

#include <string>

#include "bnfast/bnfast.h"

namespace bnfast::c {

// ValueError, in the form of all messages: operation, argument, got, expected.
[[noreturn]] void fail(const char* operation, const std::string& what);

// The status of the exception that is being handled; what it says becomes the thread's last error.
bnfast_status report_exception(const char* operation);

// What a C function returns for a body of C++.
template <class Body>
bnfast_status status_of(const char* operation, const Body& body) {
    try {
        body();
        return BNFAST_OK;
    } catch (...) {
        return report_exception(operation);
    }
}

}  // namespace bnfast::c
