// What the last lane computes for its warp.
#include "collectives.h"

#include "numbers.h"

namespace emu {

namespace {

// Eight floats; the compiler uses what the processor has.
typedef float Eight __attribute__((vector_size(32)));

// Two builds of one function, chosen at load time. Not with fused multiply-adds: results are the same on any x86-64.
#define WIDE __attribute__((target_clones("avx2", "default")))

struct Product { alignas(32) float a[16][16], b[16][8], d[16][8]; };

// Lane 4 g + t has rows g and g + 8 and columns 2 t, 2 t + 1 of A's and D's quarters, and the transposed of B's.
template <float (*Widen)(uint16_t)> inline __attribute__((always_inline)) void spread(Product& p, const Meeting& table) {
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        unsigned g = lane / 4, t = lane % 4 * 2;
        const uint32_t* a = table.mma.a[lane];
        const uint32_t* b = table.mma.b[lane];
        const float* d = table.mma.d[lane];
        for (unsigned half = 0; half < 2; ++half) {
            for (unsigned i = 0; i < 4; ++i) p.a[g + i % 2 * 8][t + i / 2 * 8 + half] = Widen(uint16_t(a[i] >> 16 * half));
            for (unsigned i = 0; i < 2; ++i) p.b[t + i * 8 + half][g] = Widen(uint16_t(b[i] >> 16 * half));
            for (unsigned i = 0; i < 2; ++i) p.d[g + i * 8][t + half] = d[i * 2 + half];
        }
    }
}

inline __attribute__((always_inline)) void multiply(Product& p) {
    Eight b[16];
    memcpy(b, p.b, sizeof b);
    // Four rows at a time hide the latency of an addition.
    for (unsigned row = 0; row < 16; row += 4) {
        Eight sums[4];
        memcpy(sums, p.d[row], sizeof sums);
        for (unsigned k = 0; k < 16; ++k)
            for (unsigned i = 0; i < 4; ++i) sums[i] += p.a[row + i][k] * b[k];
        memcpy(p.d[row], sums, sizeof sums);
    }
}

inline __attribute__((always_inline)) void collect(Meeting& table, const Product& p) {
    for (unsigned lane = 0; lane < kLanes; ++lane)
        for (unsigned i = 0; i < 4; ++i) table.mma.d[lane][i] = p.d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

} // namespace

WIDE void finish_mma_bf16(Meeting& table) {
    Product p;
    spread<float_of_bf16>(p, table);
    multiply(p);
    collect(table, p);
}

WIDE void finish_mma_f16(Meeting& table) {
    Product p;
    spread<float_of_f16>(p, table);
    multiply(p);
    collect(table, p);
}

void finish_ballot(Meeting& table) {
    uint32_t votes = 0;
    for (unsigned i = 0; i < kLanes; ++i) votes |= uint32_t(table.words[i] != 0) << i;
    table.words[0] = votes;
}

void finish_reduce_add(Meeting& table) {
    uint32_t sum = 0;
    for (unsigned i = 0; i < kLanes; ++i) sum += uint32_t(table.words[i]);
    table.words[0] = sum;
}

// The same additions as the butterfly of shuffles that the GPU runs, lane by lane.
void finish_sum(Meeting& table) {
    for (unsigned d = 16; d; d >>= 1) {
        float next[kLanes];
        for (unsigned i = 0; i < kLanes; ++i) next[i] = table.floats[i] + table.floats[i ^ d];
        memcpy(table.floats, next, sizeof next);
    }
}

// As `fmaxf`: a NaN loses against a number.
void finish_max(Meeting& table) {
    float most = table.floats[0];
    for (unsigned i = 1; i < kLanes; ++i) most = most >= table.floats[i] || table.floats[i] != table.floats[i] ? most : table.floats[i];
    for (unsigned i = 0; i < kLanes; ++i) table.floats[i] = most;
}

} // namespace emu
