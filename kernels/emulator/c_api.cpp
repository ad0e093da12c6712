// What Rust calls: `kernels/src/cuda/emulated/ffi.rs` declares the same.
#include <cstdio>
#include <cstring>

#include "matmul.h"
#include "memory.h"
#include "registry.h"
#include "scheduler.h"

extern "C" {

struct EmuLaunch {
    const char* kernel;
    uint32_t grid[3];
    uint32_t num_threads;
    uint32_t shared_bytes;
    uint32_t num_arguments;
    const uint64_t* arguments;
    const char* kinds; // as in `Kernel::kinds`, without a zero behind them
    uint64_t seed;
    uint32_t only_check; // 1: find what is wrong with the launch, but do not run it
};

void* emu_alloc(size_t num_bytes) { return emu::allocate_buffer(num_bytes); }

void emu_free(void* buffer) { emu::free_buffer(buffer); }

int emu_inside(uint64_t address, size_t num_bytes) { return emu::inside_buffer(address, num_bytes); }

int emu_slack_is_damaged(uint64_t address) { return emu::slack_is_damaged(address); }

int emu_has_kernel(const char* name) { return emu::find_kernel(name) != nullptr; }

const char* emu_kernel_name(size_t i) {
    const emu::Kernel* kernel = emu::kernel_at(i);
    return kernel ? kernel->name : nullptr;
}

void emu_matmul(const emu::Product* product) { emu::matmul(*product); }

// Returns 0, or 1 with a message in `error`.
int emu_launch(const EmuLaunch* l, char* error, size_t error_bytes) {
    const emu::Kernel* kernel = emu::find_kernel(l->kernel);
    if (!kernel) {
        snprintf(error, error_bytes, "no kernel is named %s", l->kernel);
        return 1;
    }
    if (strlen(kernel->kinds) != l->num_arguments) {
        snprintf(error, error_bytes, "kernel %s takes %zu parameters, got %u", kernel->name, strlen(kernel->kinds), l->num_arguments);
        return 1;
    }
    for (uint32_t i = 0; i < l->num_arguments; ++i)
        if (l->kinds[i] != kernel->kinds[i]) {
            snprintf(error, error_bytes, "parameter %u of kernel %s is of kind %c, got %c (p pointer, u integer, f float)", i, kernel->name,
                     kernel->kinds[i], l->kinds[i]);
            return 1;
        }
    emu::LaunchShape shape{{l->grid[0], l->grid[1], l->grid[2]}, {l->num_threads, 1, 1}, l->shared_bytes, l->seed};
    if (const char* why = emu::refusal(shape)) {
        snprintf(error, error_bytes, "kernel %s: %s", kernel->name, why);
        return 1;
    }
    if (l->only_check) return 0;
    return !emu::launch(*kernel, shape, l->arguments, error, error_bytes);
}

} // extern "C"
