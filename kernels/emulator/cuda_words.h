// CUDA's own words for the host compiler: qualifiers, indices, barriers, shuffles, atomics, fast mathematics.
//
// Functions are `static inline`, so that two builds of one kernel (a mutated one beside the original) share nothing.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "collectives.h"

struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define threadIdx (::emu::current->index)
#define blockIdx (::emu::current->block->index)
#define blockDim (::emu::current->block->size)
#define gridDim (::emu::current->block->grid)

#define EMU_WORD [[maybe_unused]] static inline

EMU_WORD void __syncthreads(EMU_HERE) { emu::block_barrier(site); }
EMU_WORD void __syncwarp(uint32_t mask = emu::kFullMask, EMU_HERE) {
    emu::check_mask(mask);
    emu::meet(emu::Operation::SyncWarp, nullptr, site);
}
template <class T> EMU_WORD T __shfl_sync(uint32_t mask, T value, unsigned lane, EMU_HERE) {
    return emu::exchange(mask, emu::Operation::Shuffle, value, lane, site);
}
template <class T> EMU_WORD T __shfl_xor_sync(uint32_t mask, T value, unsigned bits, EMU_HERE) {
    return emu::exchange(mask, emu::Operation::ShuffleXor, value, emu::current->lane ^ bits, site);
}
template <class T> EMU_WORD T __shfl_up_sync(uint32_t mask, T value, unsigned distance, EMU_HERE) {
    unsigned lane = emu::current->lane;
    return emu::exchange(mask, emu::Operation::ShuffleUp, value, lane >= distance ? lane - distance : lane, site);
}
template <class T> EMU_WORD T __shfl_down_sync(uint32_t mask, T value, unsigned distance, EMU_HERE) {
    unsigned lane = emu::current->lane;
    return emu::exchange(mask, emu::Operation::ShuffleDown, value, lane + distance < emu::kLanes ? lane + distance : lane, site);
}
EMU_WORD uint32_t __ballot_sync(uint32_t mask, int vote, EMU_HERE) {
    return emu::combine(mask, emu::Operation::Ballot, vote != 0, emu::finish_ballot, site);
}
EMU_WORD int __any_sync(uint32_t mask, int vote, EMU_HERE) {
    return emu::combine(mask, emu::Operation::Any, vote != 0, emu::finish_ballot, site) != 0;
}
EMU_WORD int __all_sync(uint32_t mask, int vote, EMU_HERE) {
    return emu::combine(mask, emu::Operation::All, vote != 0, emu::finish_ballot, site) == emu::kFullMask;
}
EMU_WORD uint32_t __reduce_add_sync(uint32_t mask, uint32_t value, EMU_HERE) {
    return emu::combine(mask, emu::Operation::ReduceAdd, value, emu::finish_reduce_add, site);
}

// Fibers of one launch never run at the same time, so an atomic is a plain update.
template <class T> EMU_WORD T emu_replace(T* p, T value) { T old = *p; *p = value; return old; }
EMU_WORD unsigned atomicAdd(unsigned* p, unsigned v) { return emu_replace(p, *p + v); }
EMU_WORD int atomicAdd(int* p, int v) { return emu_replace(p, *p + v); }
EMU_WORD unsigned long long atomicAdd(unsigned long long* p, unsigned long long v) { return emu_replace(p, *p + v); }
EMU_WORD float atomicAdd(float* p, float v) { return emu_replace(p, *p + v); }
EMU_WORD unsigned atomicMax(unsigned* p, unsigned v) { return emu_replace(p, std::max(*p, v)); }
EMU_WORD int atomicMax(int* p, int v) { return emu_replace(p, std::max(*p, v)); }
EMU_WORD unsigned atomicMin(unsigned* p, unsigned v) { return emu_replace(p, std::min(*p, v)); }
EMU_WORD int atomicMin(int* p, int v) { return emu_replace(p, std::min(*p, v)); }
EMU_WORD unsigned atomicExch(unsigned* p, unsigned v) { return emu_replace(p, v); }
EMU_WORD int atomicExch(int* p, int v) { return emu_replace(p, v); }
EMU_WORD unsigned atomicInc(unsigned* p, unsigned limit) { return emu_replace(p, *p >= limit ? 0u : *p + 1); }
EMU_WORD unsigned atomicCAS(unsigned* p, unsigned expected, unsigned v) { return emu_replace(p, *p == expected ? v : *p); }
EMU_WORD void __threadfence() {}
EMU_WORD void __threadfence_block() {}
template <class T> EMU_WORD T __ldg(const T* p) { return *p; }

EMU_WORD int __popc(unsigned x) { return __builtin_popcount(x); }
EMU_WORD int __ffs(int x) { return __builtin_ffs(x); }
EMU_WORD int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
EMU_WORD uint64_t __umul64hi(uint64_t a, uint64_t b) { return uint64_t((unsigned __int128)(a) * b >> 64); }
EMU_WORD int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
EMU_WORD uint32_t __float_as_uint(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
EMU_WORD int __float_as_int(float x) { int u; memcpy(&u, &x, 4); return u; }
EMU_WORD float __uint_as_float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
EMU_WORD float __int_as_float(int u) { float x; memcpy(&x, &u, 4); return x; }
EMU_WORD int __float2int_rn(float x) { return int(std::nearbyint(x)); }
EMU_WORD float __int2float_rn(int x) { return float(x); }
// Four bytes picked out of eight, as the selector's digits say.
EMU_WORD uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
    uint64_t both = uint64_t(y) << 32 | x;
    uint32_t out = 0;
    for (unsigned i = 0; i < 4; ++i) out |= uint32_t(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return out;
}
EMU_WORD int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 4; ++i) sum += int(int8_t(uint32_t(a) >> 8 * i)) * int(int8_t(uint32_t(b) >> 8 * i));
    return sum;
}

EMU_WORD uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
EMU_WORD uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
EMU_WORD int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
EMU_WORD int2 make_int2(int x, int y) { return {x, y}; }
EMU_WORD float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
EMU_WORD float2 make_float2(float x, float y) { return {x, y}; }

template <class T> EMU_WORD T min(T a, T b) { return b < a ? b : a; }
template <class T> EMU_WORD T max(T a, T b) { return a < b ? b : a; }
EMU_WORD float min(float a, float b) { return fminf(a, b); }
EMU_WORD float max(float a, float b) { return fmaxf(a, b); }
EMU_WORD float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
EMU_WORD float __fdividef(float a, float b) { return a / b; }
EMU_WORD float __frcp_rn(float x) { return 1.0f / x; }
EMU_WORD float __fmul_rn(float a, float b) { return a * b; }
EMU_WORD float __fadd_rn(float a, float b) { return a + b; }
EMU_WORD float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
EMU_WORD float __saturatef(float x) { return x > 0.0f ? fminf(x, 1.0f) : 0.0f; }
// Macros, because the C library declares functions of these names.
#define __expf(x) expf(x)
#define __exp2f(x) exp2f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf(x, y)
