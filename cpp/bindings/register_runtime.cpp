// Threads, SIMD targets, and the translation of errors.
#include <cxxabi.h>
#include <pybind11/stl.h>

#include <optional>

#include "arrays.h"
#include "bnfast/cuda.h"
#include "bnfast/runtime.h"
#include "fast_call.h"
#include "gil.h"
#include "output_memory.h"
#include "register.h"

namespace bnfast::bindings {
namespace {

void stream_sum_arrays(py::array_t<float, py::array::c_style> dst,
                       const std::vector<py::array_t<float, py::array::c_style>>& sources, int threads) {
    std::vector<const float*> pointers;
    for (const auto& source : sources) {
        if (source.size() != dst.size()) throw ValueError("stream: sources differ from dst in size");
        pointers.push_back(source.data());
    }
    float* const out = dst.mutable_data();
    const std::int64_t n = dst.size();
    const ReleasedGil released;
    stream_sum(out, pointers.data(), static_cast<int>(pointers.size()), n, threads);
}

Device::Type device_type(const std::string& name) {
    if (name == "cpu") return Device::Type::kCpu;
    if (name == "cuda") return Device::Type::kCuda;
    throw ValueError("lend_backend: got '" + name + "', expected 'cpu' or 'cuda'");
}

}  // namespace

// What catches the unwinding of pthread_exit binds a reference to no object, which the sanitizer of undefined behaviour
// would report.
[[gnu::no_sanitize("undefined")]] void set_python_error(const char* operation) noexcept {
    try {
        throw;
#ifdef __GLIBCXX__
    } catch (const abi::__forced_unwind&) {
        wait_for_the_end();
#endif
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const ValueError& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const TypeError& error) {
        PyErr_SetString(PyExc_TypeError, error.what());
    } catch (const py::builtin_exception& error) {
        error.set_error();
    } catch (const OutOfMemory& error) {
        PyErr_Format(PyExc_MemoryError, "%s: %zu bytes for a result could not be allocated", operation, error.bytes);
    } catch (const std::bad_alloc&) {
        PyErr_Format(PyExc_MemoryError, "%s: memory to work with could not be allocated", operation);
    } catch (const std::length_error&) {  // what std::vector says of a size beyond all memory
        PyErr_Format(PyExc_MemoryError, "%s: memory to work with could not be allocated", operation);
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    } catch (...) {
        PyErr_SetString(PyExc_RuntimeError, "unknown error");
    }
}

void register_runtime(py::module_& m) {
    py::register_exception_translator([](std::exception_ptr p) {
        try {
            if (p) std::rethrow_exception(p);
        } catch (const ValueError& error) {
            PyErr_SetString(PyExc_ValueError, error.what());
        } catch (const TypeError& error) {
            PyErr_SetString(PyExc_TypeError, error.what());
        }
    });
    m.def("num_threads", &num_threads);
    m.def("set_num_threads", &set_num_threads);
    m.def("usable_cpus", &usable_cpus);
    m.def("threading_name", &threading_name);
    m.def("targets", [] {
        py::list names;
        for (const char* const name : targets()) names.append(name);
        return names;
    });
    m.def("active_target", &active_target);
    m.def("select_target", &select_target);
    m.def("cache_limit", &cache_limit);
    m.def("set_cache_limit", &set_cache_limit);
    m.def("private_cache_bytes", &private_cache_bytes);
    m.def("shared_cache_bytes", &shared_cache_bytes);
    m.def("shared_cache_is_near", &shared_cache_is_near);
    m.def("thresholds", [] {
        py::dict numbers;
        for (const auto& [name, number] : thresholds()) numbers[name.c_str()] = number;
        return numbers;
    });
    m.def("randomise_schedule", [](const std::optional<std::uint64_t>& seed) {
        if (seed) {
            randomise_schedule(*seed);
        } else {
            restore_schedule();
        }
    });
    m.def("lend_backend", [](const std::string& lender, const std::string& borrower) {
        lend_backend(device_type(lender), device_type(borrower));
    });
    m.def("restore_backend", [](const std::string& borrower) { restore_backend(device_type(borrower)); });
    m.def("cuda_unavailable", &cuda_unavailable);
    m.def("cuda_device_count", &cuda_device_count);
    m.def("cuda_device", [](int index) {
        const CudaDevice device = cuda_device(index);
        return py::make_tuple(device.name, device.major, device.minor, device.memory_bytes);
    });
    m.def("cuda_architectures", &cuda_architectures);
    m.def("stream", [](const py::array& dst, const py::sequence& sources, int threads) {
        std::vector<py::array_t<float, py::array::c_style>> arrays;
        for (const py::handle& source : sources)
            arrays.push_back(py::cast<py::array_t<float, py::array::c_style>>(source));
        if ((dst.flags() & py::array::c_style) == 0) throw ValueError("stream: dst is not contiguous");
        if (dst.dtype().num() != py::detail::npy_api::NPY_FLOAT_) throw TypeError("stream: dst is not float32");
        stream_sum_arrays(py::reinterpret_borrow<py::array_t<float, py::array::c_style>>(dst), arrays, threads);
    });
}

}  // namespace bnfast::bindings
