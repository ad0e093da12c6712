// What one emulated thread, warp and block are, as kernels' words see them.
//
// A CUDA thread is a fiber: a stack of its own on the OS thread that runs the launch. `current` is the one that runs now.
// Everything here belongs to one OS thread, so that nothing is locked.
#pragma once
#include <cstddef>
#include <cstdint>

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };

namespace emu {

constexpr unsigned kLanes = 32;

struct Copies;
struct SharedMemory;

// A line of a kernel, for messages.
struct Site { const char* file; int line; };

// What lanes of a warp do together. Lanes that meet must do the same.
enum class Operation : uint8_t {
    SyncWarp, Shuffle, ShuffleXor, ShuffleUp, ShuffleDown, Ballot, Any, All, ReduceAdd, Sum, Max, LoadMatrix, MmaBf16, MmaF16
};

// Where a fiber is.
enum class Place : uint8_t { Ready, BlockBarrier, WarpOperation, Exited };

// What the lanes of a warp put on the table, and what the last of them made of it.
union Meeting {
    uint64_t words[kLanes];
    const void* rows[kLanes];
    alignas(32) float floats[kLanes];
    struct { uint32_t a[kLanes][4], b[kLanes][2]; float d[kLanes][4]; } mma;
};

struct Fiber;

// Two tables: lanes that are released early fill one while others still read the other.
struct Warp {
    Meeting tables[2];
    Fiber* waiting[kLanes];
    unsigned table, arrived, missing; // missing: lanes that have exited or never were
    Operation operation;
    Site site;
};

struct Block {
    uint3 index;
    dim3 size, grid;
    unsigned num_threads, arrived, exited;
    Fiber** waiting;
    Site site;
    SharedMemory* shared;
};

struct Fiber {
    void* stack_pointer;
    Block* block;
    Warp* warp;
    uint3 index;
    unsigned lane;
    Place place;
    Operation operation;
    Site site;
    Copies* copies;
    char* stack; // its lowest byte; the guard page lies below
};

// `__thread` instead of `thread_local`: no wrapper function on each use.
extern __thread Fiber* current;

} // namespace emu
