// What several kernels share beside the words of device.cuh: element types by name, and the softmax's numbers.
#pragma once
#include "device.cuh"

#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

DEVICE float to_float(float x) { return x; }

// Converts to the element type of an output.
template <class T> DEVICE T from_float(float x);
template <> DEVICE float from_float<float>(float x) { return x; }
template <> DEVICE bf16 from_float<bf16>(float x) { return to_bf16(x); }

// Sums over the block, the same on every thread. `partial` has room for a value a warp; the block is a whole number of warps.
DEVICE float block_sum(float x, float* partial) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = x;
    __syncthreads();
    float total = 0;
    for (unsigned w = 0; w < blockDim.x / WARP; ++w) total += partial[w];
    return total;
}

DEVICE float silu(float x) { return x / (1.0f + __expf(-x)); }

DEVICE f16 f16_low(uint32_t pair) { return f16{uint16_t(pair)}; }
DEVICE f16 f16_high(uint32_t pair) { return f16{uint16_t(pair >> 16)}; }

// 16 bytes that other threads will read too.
DEVICE uint4 load16(const void* p) {
#ifndef __CUDACC__
    emu::aligned(p, 16);
#endif
    return *static_cast<const uint4*>(p);
}

// 8 bytes of weights that are read once: past L1.
DEVICE uint2 load_stream8(const void* p) {
#ifdef __CUDACC__
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
#else
    emu::aligned(p, 8);
    return *static_cast<const uint2*>(p);
#endif
}
