// The switch from one stack to another: the part that knows the processor.
#include "context.h"

#include <cstdint>

#if !defined(__x86_64__)
#error "the emulator's context switch is written for x86-64"
#endif

asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
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
.size emu_switch,.-emu_switch
.section .note.GNU-stack,"",@progbits
.text
)");

namespace emu {

void* new_context(char* top, void (*entry)()) {
    // The entry lies where the first switch's `ret` looks; at a function's first instruction the stack pointer is 8 off 16.
    uintptr_t aligned = (reinterpret_cast<uintptr_t>(top) - 64) & ~uintptr_t(15);
    auto* words = reinterpret_cast<void**>(aligned);
    words[0] = reinterpret_cast<void*>(entry);
    words[1] = nullptr;
    for (int i = 1; i <= 6; ++i) words[-i] = nullptr;
    return words - 6;
}

} // namespace emu
