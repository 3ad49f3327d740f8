// The GIL, given up while kernels run; and threads that find Python ending when they want it back.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace bnfast::bindings {

namespace py = pybind11;

// Never returns. A thread that waits for the GIL while Python ends is not to run any further, and to leave it by
// unwinding would end the process (std::terminate) or let go of Python objects without the GIL. From 3.14 on Python
// itself does this; before, it calls pthread_exit, which in glibc unwinds the thread's stack as an exception does.
[[noreturn]] void wait_for_the_end() noexcept;

// f(), a call of Python's that may wait for the GIL: C, which throws nothing else. f must not own Python objects.
template <class F>
auto or_wait_for_the_end(F f) -> decltype(f()) {
    try {
        return f();
    } catch (...) {
        wait_for_the_end();
    }
}

// callable(arguments...), where Python code runs, which may lose the GIL at any moment.
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
    // For a call over so many elements: below kWorthwhile nothing happens, as getting the GIL back may take a switch
    // interval, 5 ms.
    explicit ReleasedGil(std::int64_t elements = kWorthwhile)
        : state_(elements >= kWorthwhile ? PyEval_SaveThread() : nullptr) {}
    ~ReleasedGil() {
        if (state_ != nullptr) or_wait_for_the_end([this] { PyEval_RestoreThread(state_); });
    }
    ReleasedGil(const ReleasedGil&) = delete;
    ReleasedGil& operator=(const ReleasedGil&) = delete;

  private:
    static constexpr std::int64_t kWorthwhile = 65536;
    PyThreadState* state_;
};

}  // namespace bnfast::bindings
