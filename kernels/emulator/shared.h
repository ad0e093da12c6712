// A block's shared memory and a thread's asynchronous copies into it. Only the scheduler sees inside.
#pragma once
#include <deque>
#include <vector>

#include "fiber.h"
#include "memory.h"

namespace emu {

// What a thread block may have on the GPUs we build for, in bytes: 227 KiB with compute capability 9.0; 48 KiB are static.
constexpr size_t kSharedBytes = 227 << 10, kStaticSharedBytes = 48 << 10;

struct SharedArray { const void* key; char* first; size_t num_bytes; };

struct SharedMemory {
    std::vector<SharedArray> arrays;
    // Pages are kept from block to block; the i-th array that a block touches lies in the i-th.
    std::deque<GuardedPages> pages;
    GuardedPages dynamic_pages;
    char* dynamic = nullptr;
    size_t dynamic_bytes = 0, static_bytes = 0;

    // Forgets the last block's arrays and poisons the dynamic memory.
    void reset(size_t num_dynamic_bytes);
    // The array that has the address in it or in its guard pages, or null.
    const char* describe(uintptr_t address, size_t& num_bytes, long& offset) const;
};

struct Copy { void* to; const void* from; };

struct Copies {
    std::vector<Copy> all;
    std::vector<size_t> group_ends; // into `all`
    size_t done = 0, groups_done = 0;

    void clear() { all.clear(); group_ends.clear(); done = groups_done = 0; }
};

} // namespace emu
