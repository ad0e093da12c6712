// Memory between guard pages, and the table of a device's buffers.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emu {

// Pages that may be used, with one page before and one behind that trap.
class GuardedPages {
  public:
    GuardedPages() = default;
    explicit GuardedPages(size_t num_bytes);
    GuardedPages(GuardedPages&& other) noexcept;
    GuardedPages& operator=(GuardedPages&& other) noexcept;
    ~GuardedPages();

    // The first byte that may be used; null where the system had no memory.
    char* begin() const { return begin_; }
    char* end() const { return begin_ + num_bytes_; }
    size_t num_bytes() const { return num_bytes_; }

    // Where `num_bytes` start that end, rounded up to 16, at the guard page behind.
    char* last(size_t num_bytes) const { return end() - (num_bytes + 15) / 16 * 16; }
    // Gives the memory back but keeps the addresses, which trap from now on.
    void forbid();
    // Whether the address lies in one of the two guard pages.
    bool guards(uintptr_t address) const;

  private:
    char* begin_ = nullptr;
    size_t num_bytes_ = 0;
};

size_t page_bytes();

// A buffer that holds NaN and ends at a guard page, at an address that is a multiple of 16. Null where there is no memory.
void* allocate_buffer(size_t num_bytes);
void free_buffer(void* buffer);

// Whether the bytes lie in one buffer.
bool inside_buffer(uintptr_t address, size_t num_bytes);

// Whether what lies between the buffer that holds `address` and its guard pages was written to.
bool slack_is_damaged(uintptr_t address);

// Writes where the address lies relative to the nearest buffer, such as "4 bytes behind the buffer of 64 bytes at 0x…".
void describe_address(uintptr_t address, char* out, size_t out_bytes);

} // namespace emu
