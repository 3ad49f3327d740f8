// Stacks of their own for code that runs in turns, and the switch from one to another.
#pragma once

#include <cstddef>

namespace bnfast::cuda::host {

// Where code was when it was switched away from: on its stack lie the registers that a call has to keep.
struct Context {
    void* stack_pointer = nullptr;
    void (*entry)() = nullptr;  // where code on a new stack begins
    // AddressSanitizer's knowledge of the stack
    const void* bottom = nullptr;
    std::size_t bytes = 0;
    void* fake_stack = nullptr;
};

// Goes on where `to` was, until somebody switches to `from`. Both belong to the calling thread of the system.
void switch_stack(Context& from, Context& to);

// A stack between guard pages, on which `entry` begins at the first switch to its context. It must never return.
class Stack {
  public:
    explicit Stack(void (*entry)());
    ~Stack();
    Stack(const Stack&) = delete;
    Stack& operator=(const Stack&) = delete;

    Context context;

  private:
    char* mapping_;
};

}  // namespace bnfast::cuda::host
