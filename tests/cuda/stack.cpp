// The switch between stacks: the registers that a call keeps are pushed on one and popped from the other.
#include "stack.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// void bnfast_switch_stack(void** save_stack_pointer, void* stack_pointer): without a call of the system, and without
// the signal mask and floating-point mode, which all stacks of a thread have in common.
extern "C" void bnfast_switch_stack(void** save_stack_pointer, void* stack_pointer);
#if defined(__x86_64__)
asm(R"(
    .text
    .p2align 4
    .hidden bnfast_switch_stack
    .globl bnfast_switch_stack
    .type bnfast_switch_stack, @function
bnfast_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size bnfast_switch_stack, . - bnfast_switch_stack
)");
constexpr std::size_t kFrameWords = 8;  // six registers, the return address, and a word for alignment
constexpr std::size_t kReturnAddress = 6;
#elif defined(__aarch64__)
asm(R"(
    .text
    .p2align 4
    .hidden bnfast_switch_stack
    .globl bnfast_switch_stack
    .type bnfast_switch_stack, @function
bnfast_switch_stack:
    stp x29, x30, [sp, #-160]!
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    ldp x29, x30, [sp], #160
    ret
    .size bnfast_switch_stack, . - bnfast_switch_stack
)");
constexpr std::size_t kFrameWords = 20;
constexpr std::size_t kReturnAddress = 1;
#else
#error "The switch between stacks is written for x86-64 and AArch64."
#endif

namespace bnfast::cuda::host {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStackBytes = 256 << 10;  // its frames are larger
#else
constexpr std::size_t kStackBytes = 64 << 10;
#endif

std::size_t page_bytes() {
    static const std::size_t bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
}

// The last switch.
thread_local Context* left = nullptr;
thread_local Context* entered = nullptr;

void before_switch(Context& from, Context& to) {
    left = &from;
    entered = &to;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.bytes);
#endif
}
// AddressSanitizer tells where the stack is that was left: that of the thread itself is not known otherwise.
void after_switch() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(entered->fake_stack, &left->bottom, &left->bytes);
#endif
}

void begin() {
    after_switch();
    entered->entry();
}

}  // namespace

void switch_stack(Context& from, Context& to) {
    before_switch(from, to);
    bnfast_switch_stack(&from.stack_pointer, to.stack_pointer);
    after_switch();
}

Stack::Stack(void (*entry)()) {
    const std::size_t guard = page_bytes();
    void* const mapping =
        mmap(nullptr, kStackBytes + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    mapping_ = static_cast<char*>(mapping);
    mprotect(mapping_, guard, PROT_NONE);  // a stack grows down, into this page when it is full
    void** const frame = reinterpret_cast<void**>(mapping_ + guard + kStackBytes) - kFrameWords;
    frame[kReturnAddress] = reinterpret_cast<void*>(&begin);  // the other registers begin as zero
    context.stack_pointer = frame;
    context.entry = entry;
    context.bottom = mapping_ + guard;
    context.bytes = kStackBytes;
}

Stack::~Stack() {
#if defined(__SANITIZE_ADDRESS__)
    // Its code was never left for good: what is marked as its variables' borders may be other memory next.
    __asan_unpoison_memory_region(context.bottom, context.bytes);
#endif
    munmap(mapping_, kStackBytes + page_bytes());
}

}  // namespace bnfast::cuda::host
