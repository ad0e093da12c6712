// Shared memory: every array between guard pages and poisoned. Asynchronous copies: poison until they are waited for.
#include "shared.h"

#include <cstring>

#include "scheduler.h"

namespace emu {

namespace {

constexpr size_t kCopyBytes = 16;

// `pages` with room for that many bytes.
void grow(GuardedPages& pages, size_t num_bytes) {
    if (pages.num_bytes() < num_bytes || !pages.begin()) pages = GuardedPages(num_bytes);
    if (!pages.begin()) fail("no memory for shared memory");
}

bool holds(const char* first, size_t num_bytes, const char* address, size_t length) {
    return address >= first && address + length <= first + num_bytes;
}

} // namespace

void SharedMemory::reset(size_t num_dynamic_bytes) {
    arrays.clear();
    static_bytes = 0;
    grow(dynamic_pages, num_dynamic_bytes);
    dynamic = dynamic_pages.last(num_dynamic_bytes);
    dynamic_bytes = num_dynamic_bytes;
    memset(dynamic, 0xff, size_t(dynamic_pages.end() - dynamic));
}

const char* SharedMemory::describe(uintptr_t address, size_t& num_bytes, long& offset) const {
    auto tell = [&](const GuardedPages& at, const char* first, size_t bytes) {
        if (!at.guards(address)) return false;
        num_bytes = bytes;
        offset = long(address - reinterpret_cast<uintptr_t>(first));
        return true;
    };
    for (size_t i = 0; i < arrays.size(); ++i)
        if (tell(pages[i], arrays[i].first, arrays[i].num_bytes)) return "a shared array";
    return tell(dynamic_pages, dynamic, dynamic_bytes) ? "the dynamic shared memory" : nullptr;
}

void* shared_array(const void* key, size_t num_bytes) {
    SharedMemory& shared = *current->block->shared;
    for (const SharedArray& array : shared.arrays)
        if (array.key == key) return array.first;
    shared.static_bytes += (num_bytes + 15) / 16 * 16;
    if (shared.static_bytes > kStaticSharedBytes) fail("the shared arrays take %zu bytes, at most 48 KiB fit", shared.static_bytes);
    if (shared.static_bytes + shared.dynamic_bytes > kSharedBytes)
        fail("shared arrays and dynamic shared memory take %zu bytes, at most 227 KiB fit", shared.static_bytes + shared.dynamic_bytes);
    size_t i = shared.arrays.size();
    if (shared.pages.size() == i) shared.pages.emplace_back();
    grow(shared.pages[i], num_bytes);
    char* first = shared.pages[i].last(num_bytes);
    memset(first, 0xff, size_t(shared.pages[i].end() - first));
    shared.arrays.push_back({key, first, num_bytes});
    return first;
}

void* dynamic_shared() { return current->block->shared->dynamic; }

void check_shared(const void* address, size_t num_bytes, const char* what) {
    const SharedMemory& shared = *current->block->shared;
    auto* at = static_cast<const char*>(address);
    if (holds(shared.dynamic, shared.dynamic_bytes, at, num_bytes)) return;
    for (const SharedArray& array : shared.arrays)
        if (holds(array.first, array.num_bytes, at, num_bytes)) return;
    fail("%s of %zu bytes at %p, which is not shared memory of this block", what, num_bytes, address);
}

void start_copy(void* to, const void* from_or_zero) {
    check_shared(to, kCopyBytes, "an asynchronous copy to an address");
    // Nobody may rely on what was there before, either.
    memset(to, 0xff, kCopyBytes);
    current->copies->all.push_back({to, from_or_zero});
}

void commit_copies() { current->copies->group_ends.push_back(current->copies->all.size()); }

void await_copies(unsigned num_groups_left) {
    Copies& copies = *current->copies;
    while (copies.group_ends.size() - copies.groups_done > num_groups_left) {
        for (size_t end = copies.group_ends[copies.groups_done++]; copies.done < end; ++copies.done) {
            const Copy& copy = copies.all[copies.done];
            if (copy.from) memcpy(copy.to, copy.from, kCopyBytes);
            else memset(copy.to, 0, kCopyBytes);
        }
    }
    // What is behind us is dropped where nothing is ahead, so that a long loop does not grow the lists.
    if (copies.done == copies.all.size() && copies.groups_done == copies.group_ends.size()) copies.clear();
    else if (copies.groups_done > 64) {
        copies.all.erase(copies.all.begin(), copies.all.begin() + long(copies.done));
        copies.group_ends.erase(copies.group_ends.begin(), copies.group_ends.begin() + long(copies.groups_done));
        for (size_t& end : copies.group_ends) end -= copies.done;
        copies.done = copies.groups_done = 0;
    }
}

} // namespace emu
