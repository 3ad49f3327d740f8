// The state of a normalization in a C caller's memory: a header, and behind it the numbers, unless these are on a
// device.
#pragma once

#include <cstdint>

#include "bnfast/bnfast.h"
#include "bnfast/norm_state.h"
#include "c/arguments.h"

namespace bnfast::c {

// The bytes of a state of so many numbers.
std::size_t state_bytes_of(std::int64_t numbers);

// A state that a forward call fills, in the caller's memory.
class NewState {
  public:
    NewState(const char* operation, const Inputs& inputs, void* memory, std::size_t bytes);
    NormState& operator*() { return state_; }
    // To be called when the numbers are there.
    void finish();

  private:
    void* memory_;
    NormState state_;
};

// A state that a forward call has filled: its numbers stay in the caller's memory. ValueError where that holds none.
NormState filled_state(const char* operation, const void* memory, std::size_t bytes);

}  // namespace bnfast::c
