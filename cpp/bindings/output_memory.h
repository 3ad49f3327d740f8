// Memory for large new arrays, kept for the next one when an array dies: fresh pages cost more than the kernels.
#pragma once

#include <cstddef>
#include <new>

#include "arrays.h"

namespace bnfast::bindings {

struct OutOfMemory : std::bad_alloc {
    explicit OutOfMemory(std::size_t size) : bytes(size) {}
    std::size_t bytes;
};

// The owner of uninitialised memory for an array: what NumPy calls its base. The memory goes back when no array refers
// to it any more, and not before, so that no two arrays ever share it.
struct OutputMemory {
    void* data;
    py::object owner;
};
// `phase` is the address modulo 64. Throws OutOfMemory.
OutputMemory take_output_memory(std::size_t bytes, std::size_t phase);

// Arrays from this size on have such memory; smaller ones are NumPy's own.
constexpr std::size_t kLargeOutput = 1 << 20;

// The most bytes that are kept while no array uses them.
std::size_t cache_limit();
void set_cache_limit(std::size_t bytes);

}  // namespace bnfast::bindings
