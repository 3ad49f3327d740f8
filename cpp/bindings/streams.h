// The streams of GPUs on which libraries of arrays work, and how calls take their place among what these enqueue.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "bnfast/tensor.h"
#include "library.h"

namespace bnfast::bindings {

// Where a library enqueues work of the calling thread, and what keeps that stream alive, if anything has to.
struct CurrentStream {
    Device device;
    py::object owner;
};
CurrentStream current_stream(const Library& library, int device_index);

// A stream as the array API standard has it in `__dlpack__(stream=...)`, where CUDA's default stream is 1.
py::int_ number_of_stream(const Device& device);
// Makes a consumer's stream, named in that way, wait for ours. None is the default stream, -1 one that need not wait.
void let_follow(const Device& ours, const py::object& number);

// Elements, for ReleasedGil, of a call that waits for the GPU where x is on one: there always enough.
std::int64_t elements_or_wait(const TensorView& x);
// Waits until the stream of a GPU has done what is enqueued on it, by a copy of one byte of its memory.
void wait_for(const Device& device, const void* memory) noexcept;

// What is enqueued on the stream of `later` from now on runs after what is on that of `earlier`: for arrays of two
// libraries in one call.
void run_after(const Device& later, const Device& earlier);

// Lets what belongs to one stream of a GPU be used on another for the lifetime of the object: behind what its owner has
// enqueued, and before the owner does anything more with it, such as giving it back.
class UseOnStream {
  public:
    UseOnStream(const Device& owner, const Device& user);
    ~UseOnStream();
    UseOnStream(const UseOnStream&) = delete;
    UseOnStream& operator=(const UseOnStream&) = delete;

  private:
    Device owner_, user_;
};

}  // namespace bnfast::bindings
