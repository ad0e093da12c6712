// Buffers: each between guard pages of its own, all in one table.
#include "memory.h"

#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

namespace emu {

namespace {

struct Buffer { size_t num_bytes; GuardedPages pages; };

std::mutex buffers_lock;

// By address. Never destroyed: a device may outlive the statics.
std::map<uintptr_t, Buffer>& buffers() {
    static auto* all = new std::map<uintptr_t, Buffer>;
    return *all;
}

// Addresses of buffers that were freed last: they trap for a while before they are used again.
constexpr size_t kQuarantine = 256;
std::deque<GuardedPages>& quarantine() {
    static auto* all = new std::deque<GuardedPages>;
    return *all;
}

// The buffer that starts at or before the address, if there is one.
std::map<uintptr_t, Buffer>::iterator at_or_before(uintptr_t address) {
    auto next = buffers().upper_bound(address);
    return next == buffers().begin() ? buffers().end() : std::prev(next);
}

bool is_poison(const char* from, const char* to) {
    for (; from < to; ++from)
        if (*from != char(0xff)) return false;
    return true;
}

} // namespace

size_t page_bytes() {
    static const size_t bytes = size_t(sysconf(_SC_PAGESIZE));
    return bytes;
}

GuardedPages::GuardedPages(size_t num_bytes) {
    size_t page = page_bytes(), body = (num_bytes + page - 1) / page * page;
    if (body == 0) body = page;
    void* all = mmap(nullptr, body + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) return;
    if (mprotect(static_cast<char*>(all) + page, body, PROT_READ | PROT_WRITE) != 0) {
        munmap(all, body + 2 * page);
        return;
    }
    begin_ = static_cast<char*>(all) + page;
    num_bytes_ = body;
}

GuardedPages::GuardedPages(GuardedPages&& other) noexcept
    : begin_(std::exchange(other.begin_, nullptr)), num_bytes_(std::exchange(other.num_bytes_, 0)) {}

GuardedPages& GuardedPages::operator=(GuardedPages&& other) noexcept {
    std::swap(begin_, other.begin_);
    std::swap(num_bytes_, other.num_bytes_);
    return *this;
}

GuardedPages::~GuardedPages() {
    if (begin_) munmap(begin_ - page_bytes(), num_bytes_ + 2 * page_bytes());
}

void GuardedPages::forbid() {
    if (!begin_) return;
    madvise(begin_, num_bytes_, MADV_DONTNEED);
    mprotect(begin_, num_bytes_, PROT_NONE);
}

bool GuardedPages::guards(uintptr_t address) const {
    uintptr_t first = reinterpret_cast<uintptr_t>(begin_), behind = reinterpret_cast<uintptr_t>(end());
    if (!begin_) return false;
    return (address < first && address >= first - page_bytes()) || (address >= behind && address < behind + page_bytes());
}

void* allocate_buffer(size_t num_bytes) {
    GuardedPages pages(num_bytes);
    if (!pages.begin()) return nullptr;
    memset(pages.begin(), 0xff, pages.num_bytes());
    char* buffer = pages.last(num_bytes);
    std::lock_guard<std::mutex> guard(buffers_lock);
    buffers().emplace(reinterpret_cast<uintptr_t>(buffer), Buffer{num_bytes, std::move(pages)});
    return buffer;
}

void free_buffer(void* buffer) {
    std::lock_guard<std::mutex> guard(buffers_lock);
    auto found = buffers().find(reinterpret_cast<uintptr_t>(buffer));
    if (found == buffers().end()) return;
    GuardedPages pages = std::move(found->second.pages);
    buffers().erase(found);
    pages.forbid();
    quarantine().push_back(std::move(pages));
    if (quarantine().size() > kQuarantine) quarantine().pop_front();
}

bool inside_buffer(uintptr_t address, size_t num_bytes) {
    std::lock_guard<std::mutex> guard(buffers_lock);
    auto found = at_or_before(address);
    if (found == buffers().end()) return false;
    size_t offset = address - found->first;
    return offset <= found->second.num_bytes && num_bytes <= found->second.num_bytes - offset;
}

bool slack_is_damaged(uintptr_t address) {
    std::lock_guard<std::mutex> guard(buffers_lock);
    auto found = at_or_before(address);
    if (found == buffers().end()) return false;
    auto* first = reinterpret_cast<const char*>(found->first);
    const GuardedPages& pages = found->second.pages;
    return !is_poison(pages.begin(), first) || !is_poison(first + found->second.num_bytes, pages.end());
}

void describe_address(uintptr_t address, char* out, size_t out_bytes) {
    std::lock_guard<std::mutex> guard(buffers_lock);
    auto before = at_or_before(address), after = buffers().upper_bound(address);
    const char* side = "no buffer is near";
    const std::pair<const uintptr_t, Buffer>* nearest = nullptr;
    uintptr_t distance = 0;
    if (before != buffers().end()) {
        uintptr_t end = before->first + before->second.num_bytes;
        side = address < end ? "inside" : "behind";
        distance = address < end ? address - before->first : address - end;
        nearest = &*before;
    }
    if (after != buffers().end() && (!nearest || after->first - address < distance)) {
        side = "before";
        distance = after->first - address;
        nearest = &*after;
    }
    if (!nearest) snprintf(out, out_bytes, "%s", side);
    else
        snprintf(out, out_bytes, "%zu bytes %s the nearest buffer, of %zu bytes at %#zx", size_t(distance), side,
                 nearest->second.num_bytes, size_t(nearest->first));
}

} // namespace emu
