// What one OS thread keeps to run launches: fibers and their stacks, blocks, the list of who may run.
#pragma once
#include <csetjmp>
#include <cstdint>
#include <deque>
#include <vector>

#include "fiber.h"
#include "memory.h"
#include "shared.h"

namespace emu {

struct Kernel;

constexpr size_t kStackBytes = 64 << 10;

// An access that trapped, as the signal handler saw it.
struct Trap { uintptr_t address = 0; int signal = 0; };

struct Machine {
    // Deques, so that what was handed out stays where it is.
    std::deque<Fiber> fibers;
    std::deque<GuardedPages> stacks;
    std::deque<Copies> copies;
    std::deque<Warp> warps;
    std::deque<Block> blocks;
    std::deque<SharedMemory> shared;
    std::vector<Fiber*> waiting; // room for the blocks' lists
    std::vector<Fiber*> ready;   // the first `num_ready` count
    std::vector<unsigned> order; // of the blocks
    size_t num_ready = 0, num_alive = 0, num_used = 0, idle_spins = 0;
    uint64_t random_state = 0;
    void* home = nullptr; // the OS thread's own stack, while a fiber runs
    const Kernel* kernel = nullptr;
    const uint64_t* arguments = nullptr;
    bool failed = false;
    char message[768] = {};
    // Set while a launch runs: where the signal handler jumps to.
    volatile bool armed = false;
    sigjmp_buf escape;
    Trap trap;
};

extern __thread Machine* machine;

// Installs the handler of the process, once, and a signal stack for this OS thread.
void catch_traps();

// Writes to `out` what the access that trapped in `fiber` was.
void describe_trap(const Machine& at, const Fiber& fiber, char* out, size_t out_bytes);

} // namespace emu
