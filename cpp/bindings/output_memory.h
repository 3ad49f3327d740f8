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

// Uninitialised memory. Any thread may take some and give it back, with the GIL or without.
struct OutputBlock {
    void* data = nullptr;
    std::size_t size = 0;
};
// A block of at least so many bytes, at a multiple of a cache line. Throws OutOfMemory.
OutputBlock take_block(std::size_t bytes);
void give_back(OutputBlock block) noexcept;

constexpr std::size_t kLineBytes = 64;

// The owner of uninitialised memory for an array: what NumPy calls its base. The memory goes back when no array refers
// to it any more, and not before, so that no two arrays ever share it.
struct OutputMemory {
    void* data;
    py::object owner;
};
// Memory of so many bytes, whose address modulo 64 is `phase`. Throws OutOfMemory.
OutputMemory take_output_memory(std::size_t bytes, std::size_t phase);

// New arrays of at least so many bytes have such memory. NumPy allocates smaller ones.
constexpr std::size_t kLargeOutput = 1 << 20;

// How many bytes at most are kept while no array uses them.
std::size_t cache_limit();
void set_cache_limit(std::size_t bytes);

}  // namespace bnfast::bindings
