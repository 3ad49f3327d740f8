// How a C function ends: in a status, and where it failed in a text, whatever C++ threw.
#include "c/status.h"

#include <cxxabi.h>

#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>

#include "bnfast/error.h"

namespace bnfast::c {
namespace {

// No std::string: it would have to be destroyed when the thread ends, by a library that may have been unloaded.
constexpr std::size_t kMostText = 1024;
thread_local char last_error[kMostText];

void remember(const char* operation, const char* text) {
    std::snprintf(last_error, kMostText, "%s%s%s", operation, *operation == '\0' ? "" : ": ", text);
}

}  // namespace

void fail(const char* operation, const std::string& what) { throw ValueError(std::string(operation) + ": " + what); }

bnfast_status report_exception(const char* operation) {
    constexpr const char* kNoMemory = "memory to work with could not be allocated";
    try {
        throw;
#ifdef __GLIBCXX__
    } catch (const abi::__forced_unwind&) {  // the thread is being cancelled, which nobody may stop
        throw;
#endif
    } catch (const ValueError& error) {  // its text begins with the operation
        remember("", error.what());
        return BNFAST_VALUE_ERROR;
    } catch (const TypeError& error) {
        remember("", error.what());
        return BNFAST_TYPE_ERROR;
    } catch (const std::bad_alloc&) {
        remember(operation, kNoMemory);
        return BNFAST_OUT_OF_MEMORY;
    } catch (const std::length_error&) {  // what std::vector says of a size beyond all memory
        remember(operation, kNoMemory);
        return BNFAST_OUT_OF_MEMORY;
    } catch (const std::exception& error) {
        remember(operation, error.what());
        return BNFAST_INTERNAL_ERROR;
    } catch (...) {
        remember(operation, "unknown error");
        return BNFAST_INTERNAL_ERROR;
    }
}

}  // namespace bnfast::c

const char* bnfast_last_error() { return bnfast::c::last_error; }
