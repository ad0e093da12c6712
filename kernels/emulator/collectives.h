// Warp operations in one meeting each: every lane puts its part on the table, the last computes, every lane reads.
//
// Kernels use full warps only: another mask is refused.
#pragma once
#include <cstring>

#include "scheduler.h"

namespace emu {

// The default arguments name the line of the call.
#define EMU_HERE ::emu::Site site = {__builtin_FILE(), __builtin_LINE()}

constexpr uint32_t kFullMask = 0xffffffffu;

void finish_ballot(Meeting& table);
void finish_reduce_add(Meeting& table);
void finish_sum(Meeting& table);
void finish_max(Meeting& table);
void finish_mma_bf16(Meeting& table);
void finish_mma_f16(Meeting& table);

inline Meeting& table() { return current->warp->tables[current->warp->table]; }

inline void check_mask(uint32_t mask) {
    if (mask != kFullMask) fail("uses the mask %#x in a warp operation: only full warps are supported", mask);
}

inline void check_aligned(const void* address, size_t num_bytes) {
    if (reinterpret_cast<uintptr_t>(address) % num_bytes) fail("makes a misaligned access of %zu bytes at %p", num_bytes, address);
}

template <class T> T exchange(uint32_t mask, Operation operation, T value, unsigned from, Site site) {
    static_assert(sizeof(T) <= 8, "a shuffle moves up to 8 bytes");
    check_mask(mask);
    Meeting& t = table();
    memcpy(&t.words[current->lane], &value, sizeof value);
    meet(operation, nullptr, site);
    memcpy(&value, &t.words[from % kLanes], sizeof value);
    return value;
}

// What `finish` made of all lanes' words.
inline uint32_t combine(uint32_t mask, Operation operation, uint32_t value, void (*finish)(Meeting&), Site site) {
    check_mask(mask);
    Meeting& t = table();
    t.words[current->lane] = value;
    meet(operation, finish, site);
    return uint32_t(t.words[0]);
}

inline float combine_floats(Operation operation, float value, void (*finish)(Meeting&), Site site) {
    Meeting& t = table();
    unsigned lane = current->lane;
    t.floats[lane] = value;
    meet(operation, finish, site);
    return t.floats[lane];
}

// `N` matrices of 8x8 elements of 16 bits; lane i gives the address of row i % 8 of matrix i / 8.
template <int N> void load_matrices(uint32_t (&r)[N], const void* row, bool transposed, Site site) {
    Meeting& t = table();
    unsigned lane = current->lane;
    if (lane < 8 * N) {
        check_aligned(row, 16);
        check_shared(row, 16, "reads a matrix row");
    }
    t.rows[lane] = row;
    meet(Operation::LoadMatrix, nullptr, site);
    for (int m = 0; m < N; ++m) {
        const void* const* rows = &t.rows[m * 8];
        if (!transposed) memcpy(&r[m], static_cast<const char*>(rows[lane / 4]) + lane % 4 * 4, 4);
        else
            for (unsigned half = 0; half < 2; ++half)
                memcpy(reinterpret_cast<char*>(&r[m]) + half * 2, static_cast<const char*>(rows[lane % 4 * 2 + half]) + lane / 4 * 2, 2);
    }
}

inline void mma(Operation operation, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
    auto& t = table().mma;
    unsigned lane = current->lane;
    memcpy(t.a[lane], a, sizeof a);
    memcpy(t.b[lane], b, sizeof b);
    memcpy(t.d[lane], d, sizeof d);
    meet(operation, operation == Operation::MmaBf16 ? finish_mma_bf16 : finish_mma_f16, site);
    memcpy(d, t.d[lane], sizeof d);
}

} // namespace emu
