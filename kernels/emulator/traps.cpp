// Memory faults of kernels: the signal handler leaves the launch instead of the process.
#include <csignal>
#include <cstdio>
#include <memory>
#include <mutex>
#include <sys/mman.h>

#include "machine.h"

namespace emu {

namespace {

constexpr size_t kSignalStackBytes = 64 << 10;

struct sigaction former_segv, former_bus, former_fpe;

// Hands the signal to whoever had it before us; with nobody there, the process dies of it as it would have.
void chain(int number, siginfo_t* info, void* context) {
    const struct sigaction& former = number == SIGSEGV ? former_segv : number == SIGBUS ? former_bus : former_fpe;
    if (former.sa_flags & SA_SIGINFO) former.sa_sigaction(number, info, context);
    else if (former.sa_handler == SIG_DFL || former.sa_handler == SIG_IGN) sigaction(number, &former, nullptr);
    else former.sa_handler(number);
}

void on_trap(int number, siginfo_t* info, void* context) {
    Machine* here = machine;
    if (!here || !here->armed) return chain(number, info, context);
    here->armed = false;
    here->trap = {reinterpret_cast<uintptr_t>(info->si_addr), number};
    siglongjmp(here->escape, 1);
}

// A fiber that overflows its stack cannot run a handler on it.
class SignalStack {
  public:
    SignalStack() {
        stack_t former{};
        // The Rust runtime has given its threads one: it serves.
        if (sigaltstack(nullptr, &former) == 0 && !(former.ss_flags & SS_DISABLE)) return;
        pages_ = GuardedPages(kSignalStackBytes);
        stack_t ours{};
        ours.ss_sp = pages_.begin();
        ours.ss_size = pages_.num_bytes();
        if (pages_.begin()) sigaltstack(&ours, nullptr);
    }
    ~SignalStack() {
        stack_t none{};
        none.ss_flags = SS_DISABLE;
        if (pages_.begin()) sigaltstack(&none, nullptr);
    }

  private:
    GuardedPages pages_;
};

void install_handler() {
    struct sigaction ours{};
    ours.sa_sigaction = on_trap;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&ours.sa_mask);
    sigaction(SIGSEGV, &ours, &former_segv);
    sigaction(SIGBUS, &ours, &former_bus);
    sigaction(SIGFPE, &ours, &former_fpe);
}

} // namespace

void catch_traps() {
    static std::once_flag once;
    std::call_once(once, install_handler);
    static thread_local SignalStack stack;
    (void)stack;
}

void describe_trap(const Machine& at, const Fiber& fiber, char* out, size_t out_bytes) {
    uintptr_t address = at.trap.address, stack = reinterpret_cast<uintptr_t>(fiber.stack);
    if (at.trap.signal == SIGFPE) {
        snprintf(out, out_bytes, "divided an integer by zero");
        return;
    }
    if (address < stack && address >= stack - page_bytes()) {
        snprintf(out, out_bytes, "overflowed its stack of %zu bytes", kStackBytes);
        return;
    }
    size_t num_bytes = 0;
    long offset = 0;
    if (const char* what = fiber.block->shared->describe(address, num_bytes, offset)) {
        snprintf(out, out_bytes, "touched memory outside a buffer (address %#zx, at byte %ld of %s of %zu bytes)", size_t(address), offset,
                 what, num_bytes);
        return;
    }
    char where[200];
    describe_address(address, where, sizeof where);
    snprintf(out, out_bytes, "touched memory outside a buffer (address %#zx, %s)", size_t(address), where);
}

} // namespace emu
