// Who runs next: the calls by which a fiber waits, and by which a launch ends with an error.
#pragma once
#include "fiber.h"

namespace emu {

struct Kernel;

// Ends the launch with a message that names the kernel, the block and the thread. The first message counts.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Waits until all threads of the block that have not exited are here.
void block_barrier(Site site);

// Waits until all lanes of the warp are at the same operation. The last to come runs `finish` on the table, for all.
void meet(Operation operation, void (*finish)(Meeting&), Site site);

// Lets others run, in a loop that waits for what another block writes.
void spin();

// A shared array of this block, found by the address of a static of its declaration. It starts as NaN.
void* shared_array(const void* key, size_t num_bytes);
void* dynamic_shared();

// Fails where these bytes are not this block's shared memory.
void check_shared(const void* address, size_t num_bytes, const char* what);

// Copies that are under way: they arrive when the thread waits for their group, and read as NaN before.
void start_copy(void* to, const void* from_or_zero);
void commit_copies();
void await_copies(unsigned num_groups_left);

struct LaunchShape {
    dim3 grid, block;
    uint32_t shared_bytes;
    uint64_t seed;
};

// Runs a kernel over its grid. Returns whether it went well; else `error` holds a message.
bool launch(const Kernel& kernel, const LaunchShape& shape, const uint64_t* arguments, char* error, size_t error_bytes);

// Returns what forbids a launch of this shape, or null.
const char* refusal(const LaunchShape& shape);

} // namespace emu
