// The GIL, given up while kernels run; and threads that find Python ending when they want it back.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace bnfast::bindings {

namespace py = pybind11;

// Never returns: for a thread that wants the GIL while Python ends, and must not run any further. Before 3.14 Python
// ends such a thread by pthread_exit, which in glibc unwinds the stack as an exception does. In C++ that would end the
// process (std::terminate), or release Python objects without the GIL. From 3.14 on Python makes the thread wait.
[[noreturn]] void wait_for_the_end() noexcept;

// The result of f(), which calls a C function of Python that may wait for the GIL. As C throws nothing, whatever is
// caught is the unwinding of pthread_exit. f must not own Python objects.
template <class F>
auto or_wait_for_the_end(F f) -> decltype(f()) {
    try {
        return f();
    } catch (...) {
        wait_for_the_end();
    }
}

// The result of callable(arguments...). It runs Python code, which gives other threads the GIL from time to time.
template <class... Arguments>
py::object call_python(const py::handle& callable, const Arguments&... arguments) {
    PyObject* const objects[] = {arguments.ptr()...};
    PyObject* const result = or_wait_for_the_end(
        [&] { return PyObject_Vectorcall(callable.ptr(), objects, sizeof...(Arguments), nullptr); });
    if (result == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result);
}

// Gives up the GIL for the lifetime of the object.
class ReleasedGil {
  public:
    static constexpr std::int64_t kWorthwhile = 65536;

    // For a call over so many elements. Fewer than kWorthwhile are computed with the GIL, as it may take a switch
    // interval of Python, 5 ms, to get it back.
    explicit ReleasedGil(std::int64_t elements = kWorthwhile)
        : state_(elements >= kWorthwhile ? PyEval_SaveThread() : nullptr) {}
    ~ReleasedGil() {
        if (state_ != nullptr) or_wait_for_the_end([this] { PyEval_RestoreThread(state_); });
    }
    ReleasedGil(const ReleasedGil&) = delete;
    ReleasedGil& operator=(const ReleasedGil&) = delete;

  private:
    PyThreadState* state_;
};

}  // namespace bnfast::bindings
