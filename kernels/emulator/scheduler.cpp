// The scheduler: a list of fibers that may run, from which a random one is taken at each switch.
//
// Barriers and warp operations are counters. Who arrives last puts all that waited on the list, so a switch costs the
// same however many threads there are. A fiber switches to the next one directly; the OS thread's own stack is "home",
// where a block's last fiber and an error go.
#include "scheduler.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <memory>

#include "context.h"
#include "machine.h"
#include "registry.h"

namespace emu {

__thread Fiber* current = nullptr;
__thread Machine* machine = nullptr;

namespace {

// A cooperative wait that nobody ends is given up after so many turns without progress: some 0.1 s.
constexpr size_t kIdleSpins = 4 << 20;

const char* name_of(Operation operation) {
    switch (operation) {
    case Operation::SyncWarp: return "__syncwarp";
    case Operation::Shuffle: return "__shfl_sync";
    case Operation::ShuffleXor: return "__shfl_xor_sync";
    case Operation::ShuffleUp: return "__shfl_up_sync";
    case Operation::ShuffleDown: return "__shfl_down_sync";
    case Operation::Ballot: return "__ballot_sync";
    case Operation::Any: return "__any_sync";
    case Operation::All: return "__all_sync";
    case Operation::ReduceAdd: return "__reduce_add_sync";
    case Operation::Sum: return "warp_sum";
    case Operation::Max: return "warp_max";
    case Operation::LoadMatrix: return "ldmatrix";
    case Operation::MmaBf16: return "mma_16816";
    case Operation::MmaF16: return "mma_16816_f16";
    }
    return "?";
}

uint64_t next_random(Machine& m) {
    uint64_t x = m.random_state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return m.random_state = x;
}

// Uniform enough below `n`, without a division.
size_t random_below(Machine& m, size_t n) { return size_t(((next_random(m) >> 32) * n) >> 32); }

Fiber* take_ready(Machine& m) {
    size_t i = random_below(m, m.num_ready);
    Fiber* taken = m.ready[i];
    m.ready[i] = m.ready[--m.num_ready];
    return taken;
}

void make_ready(Machine& m, Fiber** fibers, unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
        fibers[i]->place = Place::Ready;
        m.ready[m.num_ready++] = fibers[i];
    }
    m.idle_spins = 0;
}

[[noreturn]] void go_home() {
    void* nowhere;
    emu_switch(&nowhere, machine->home);
    __builtin_unreachable();
}

void report(Machine& m, const Fiber& f, const char* what) {
    if (m.failed) return;
    m.failed = true;
    snprintf(m.message, sizeof m.message, "kernel %s: thread (%u,%u,%u) of block (%u,%u,%u) %s", m.kernel->name, f.index.x, f.index.y,
             f.index.z, f.block->index.x, f.block->index.y, f.block->index.z, what);
}

// Nobody can run, and somebody waits.
[[noreturn]] void deadlock(Machine& m) {
    char what[600];
    size_t length = size_t(snprintf(what, sizeof what, "waits for ever; deadlock:"));
    const Fiber* first = nullptr;
    unsigned shown = 0, exited = 0;
    Site last{nullptr, 0};
    for (size_t i = 0; i < m.num_used; ++i) {
        const Fiber& f = m.fibers[i];
        if (f.place == Place::Exited) { ++exited; continue; }
        bool same = last.file == f.site.file && last.line == f.site.line;
        last = f.site;
        if (!first) first = &f;
        if (same || shown == 4 || length > sizeof what - 160) continue;
        ++shown;
        length += size_t(snprintf(what + length, sizeof what - length, " thread %u of block %u at %s (%.80s:%d);", f.index.x, f.block->index.x,
                                  f.place == Place::BlockBarrier ? "__syncthreads" : name_of(f.operation), f.site.file, f.site.line));
    }
    snprintf(what + length, sizeof what - length, " %u threads have exited", exited);
    report(m, *first, what);
    go_home();
}

// Runs whoever is next. Returns when this fiber is.
void wait_here(Fiber& f) {
    Machine& m = *machine;
    if (m.num_ready == 0) deadlock(m);
    Fiber* next = take_ready(m);
    if (next == &f) return;
    current = next;
    emu_switch(&f.stack_pointer, next->stack_pointer);
}

void release_block(Machine& m, Block& b) {
    unsigned count = b.arrived;
    b.arrived = 0;
    make_ready(m, b.waiting, count);
}

[[noreturn]] void exit_fiber(Fiber& f) {
    Machine& m = *machine;
    Block& b = *f.block;
    f.place = Place::Exited;
    f.warp->missing++;
    if (f.warp->arrived) fail("exits while lanes of its warp wait for it in %s (%s:%d)", name_of(f.warp->operation), f.warp->site.file, f.warp->site.line);
    b.exited++;
    m.num_alive--;
    m.idle_spins = 0;
    if (b.arrived && b.arrived + b.exited == b.num_threads) release_block(m, b);
    if (m.num_alive == 0) go_home();
    if (m.num_ready == 0) deadlock(m);
    current = take_ready(m);
    void* nowhere;
    emu_switch(&nowhere, current->stack_pointer);
    __builtin_unreachable();
}

void fiber_main() {
    machine->kernel->run(machine->arguments);
    exit_fiber(*current);
}

// Makes the `count` fibers, warps and the block of one more block, and puts its threads on the list.
void prepare_block(Machine& m, unsigned slot, unsigned number, const LaunchShape& shape) {
    unsigned count = shape.block.x * shape.block.y * shape.block.z, num_warps = (count + kLanes - 1) / kLanes;
    while (m.blocks.size() <= slot) { m.blocks.emplace_back(); m.shared.emplace_back(); }
    while (m.warps.size() < size_t(slot + 1) * num_warps) m.warps.emplace_back();
    while (m.fibers.size() < size_t(slot + 1) * count) {
        m.stacks.emplace_back(kStackBytes);
        m.copies.emplace_back();
        m.fibers.emplace_back();
        m.fibers.back().stack = m.stacks.back().begin();
        m.fibers.back().copies = &m.copies.back();
    }
    Block& b = m.blocks[slot];
    b.index = {number % shape.grid.x, number / shape.grid.x % shape.grid.y, number / (shape.grid.x * shape.grid.y)};
    b.size = shape.block;
    b.grid = shape.grid;
    b.num_threads = count;
    b.arrived = b.exited = 0;
    b.waiting = &m.waiting[size_t(slot) * count];
    b.shared = &m.shared[slot];
    b.shared->reset(shape.shared_bytes);
    for (unsigned w = 0; w < num_warps; ++w) {
        Warp& warp = m.warps[size_t(slot) * num_warps + w];
        warp.table = warp.arrived = 0;
        warp.missing = kLanes - std::min(kLanes, count - w * kLanes);
    }
    for (unsigned t = 0; t < count; ++t) {
        size_t i = size_t(slot) * count + t;
        Fiber& f = m.fibers[i];
        f.block = &b;
        f.warp = &m.warps[size_t(slot) * num_warps + t / kLanes];
        f.index = {t % shape.block.x, t / shape.block.x % shape.block.y, t / (shape.block.x * shape.block.y)};
        f.lane = t % kLanes;
        f.place = Place::Ready;
        f.site = {"", 0};
        f.copies->clear();
        // Tops at the same offset in their pages would all compete for the same lines of the cache.
        f.stack_pointer = new_context(f.stack + kStackBytes - i % 29 * 320, fiber_main);
        m.ready[m.num_ready++] = &f;
    }
    m.num_alive += count;
    m.num_used = size_t(slot + 1) * count;
}

void run_ready(Machine& m) {
    m.idle_spins = 0;
    current = take_ready(m);
    emu_switch(&m.home, current->stack_pointer);
}

// Block after block, or all at once for a cooperative kernel, in an order drawn from the seed.
void run_grid(Machine& m, const LaunchShape& shape) {
    unsigned total = shape.grid.x * shape.grid.y * shape.grid.z, per_block = shape.block.x * shape.block.y * shape.block.z;
    bool cooperative = m.kernel->cooperative;
    size_t alive = size_t(per_block) * (cooperative ? total : 1);
    if (m.ready.size() < alive) m.ready.resize(alive);
    if (m.waiting.size() < alive) m.waiting.resize(alive);
    m.num_ready = m.num_alive = 0;
    m.order.resize(total);
    for (unsigned i = 0; i < total; ++i) m.order[i] = i;
    for (unsigned i = total; i > 1; --i) std::swap(m.order[i - 1], m.order[random_below(m, i)]);
    for (unsigned i = 0; i < total && !m.failed; ++i) {
        prepare_block(m, cooperative ? i : 0, m.order[i], shape);
        if (!cooperative) run_ready(m);
    }
    if (cooperative && !m.failed) run_ready(m);
}

Machine& machine_of_this_thread() {
    static thread_local std::unique_ptr<Machine> ours = std::make_unique<Machine>();
    machine = ours.get();
    return *ours;
}

} // namespace

void fail(const char* format, ...) {
    char what[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    report(*machine, *current, what);
    go_home();
}

void block_barrier(Site site) {
    Fiber& f = *current;
    Block& b = *f.block;
    if (b.arrived == 0) b.site = site;
    else if (b.site.line != site.line)
        fail("is at the __syncthreads of %s:%d while others are at that of line %d", site.file, site.line, b.site.line);
    f.place = Place::BlockBarrier;
    f.site = site;
    b.waiting[b.arrived++] = &f;
    if (b.arrived + b.exited == b.num_threads) release_block(*machine, b);
    wait_here(f);
}

void meet(Operation operation, void (*finish)(Meeting&), Site site) {
    Fiber& f = *current;
    Warp& w = *f.warp;
    if (w.missing) fail("is in %s (%s:%d), but %u lanes of its warp have exited or never were", name_of(operation), site.file, site.line, w.missing);
    if (w.arrived == 0) {
        w.operation = operation;
        w.site = site;
    } else if (w.operation != operation)
        fail("is in %s (%s:%d) while other lanes of its warp are in %s (%s:%d)", name_of(operation), site.file, site.line,
             name_of(w.operation), w.site.file, w.site.line);
    f.place = Place::WarpOperation;
    f.operation = operation;
    f.site = site;
    w.waiting[w.arrived++] = &f;
    if (w.arrived == kLanes) {
        if (finish) finish(w.tables[w.table]);
        w.table ^= 1;
        w.arrived = 0;
        make_ready(*machine, w.waiting, kLanes);
    }
    wait_here(f);
}

void spin() {
    Machine& m = *machine;
    Fiber& f = *current;
    if (++m.idle_spins > kIdleSpins) fail("waits in a loop for what no other thread does");
    m.ready[m.num_ready++] = &f;
    wait_here(f);
}

const char* refusal(const LaunchShape& shape) {
    if (!shape.grid.x || !shape.grid.y || !shape.grid.z) return "a grid has no blocks";
    if (shape.grid.x > 0x7fffffffu || shape.grid.y > 65535 || shape.grid.z > 65535) return "a grid is larger than 2^31-1 x 65535 x 65535";
    if (uint64_t(shape.grid.x) * shape.grid.y * shape.grid.z > 0xffffffffull) return "the emulated device runs at most 2^32-1 blocks";
    uint64_t threads = uint64_t(shape.block.x) * shape.block.y * shape.block.z;
    if (threads == 0) return "a block has no threads";
    if (threads > 1024) return "a block has more than 1024 threads";
    if (shape.shared_bytes > kSharedBytes) return "a block has more than 227 KiB of dynamic shared memory";
    return nullptr;
}

bool launch(const Kernel& kernel, const LaunchShape& shape, const uint64_t* arguments, char* error, size_t error_bytes) {
    Machine& m = machine_of_this_thread();
    catch_traps();
    m.kernel = &kernel;
    m.arguments = arguments;
    m.failed = false;
    // An odd state never becomes zero, which xorshift would keep.
    m.random_state = (shape.seed + 1) * 0x9E3779B97F4A7C15ull | 1;
    if (sigsetjmp(m.escape, 1) == 0) {
        m.armed = true;
        run_grid(m, shape);
    } else {
        char what[400];
        describe_trap(m, *current, what, sizeof what);
        report(m, *current, what);
    }
    m.armed = false;
    current = nullptr;
    if (m.failed) snprintf(error, error_bytes, "%s", m.message);
    return !m.failed;
}

} // namespace emu
