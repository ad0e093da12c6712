// The switch from one stack to another.
#pragma once

namespace emu {

// Saves the registers that a callee keeps on this stack, stores the stack pointer, and goes on where `to` was left.
extern "C" void emu_switch(void** save, void* to);

// Makes a stack whose first switch enters `entry`. `top` is just behind its highest byte. Returns its stack pointer.
void* new_context(char* top, void (*entry)());

} // namespace emu
