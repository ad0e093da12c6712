// What several kernels share beside the words of device.cuh: loads, outputs in their element type, the functions of a feed-forward part.
#pragma once
#include "device.cuh"

#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif


DEVICE float to_float(float x) { return x; }

// Writes an output in its element type.
DEVICE void put(float* to, float x) { *to = x; }
DEVICE void put(bf16* to, float x) { *to = to_bf16(x); }

DEVICE float silu(float x) { return x / (1.0f + __expf(-x)); }

// x / 2 (1 + tanh(u)) as x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
DEVICE float gelu_tanh(float x) { return x / (1.0f + __expf(-x * (1.59576912f + 0.0713548162f * x * x))); }

// x times the normal distribution function.
DEVICE float gelu_erf(float x) { return 0.5f * x * erfcf(-0.70710678f * x); }

// The functions of a feed-forward part, numbered as in products.rs.
constexpr int SILU = 0, GELU_TANH = 1;
DEVICE float activate(int activation, float x) { return activation == SILU ? silu(x) : activation == GELU_TANH ? gelu_tanh(x) : gelu_erf(x); }

// 16 bytes that other threads will read too.
DEVICE uint4 load16(const void* p) {
#ifndef __CUDACC__
    emu::check_aligned(p, 16);
#endif
    return *static_cast<const uint4*>(p);
}

// 8 bytes that other threads will read too.
DEVICE uint2 load8(const void* p) {
#ifndef __CUDACC__
    emu::check_aligned(p, 8);
#endif
    return *static_cast<const uint2*>(p);
}

// 8 bytes of weights that are read once: past L1.
DEVICE uint2 load_stream8(const void* p) {
#ifdef __CUDACC__
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
#else
    emu::check_aligned(p, 8);
    return *static_cast<const uint2*>(p);
#endif
}
