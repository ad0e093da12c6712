// Kernels of the emulator's own tests: right ones, and faulty ones that must be noticed.
#include "device.cuh"

// out[i] = in[n - 1 - i] within each block, over shared memory. in, out: [blocks, threads] f32.
KERNEL self_reverse(float* out, const float* in) {
    SHARED(float, tile, 1024);
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    tile[threadIdx.x] = in[i];
    __syncthreads();
    out[i] = tile[blockDim.x - 1 - threadIdx.x];
}
REGISTER_KERNEL(self_reverse)

// The same in dynamic shared memory, with asynchronous copies of 16 bytes; a thread moves 4 floats.
KERNEL_BOUNDS(256) self_reverse_async(float* out, const float* in) {
    DYNAMIC_SHARED(float, tile);
    size_t first = size_t(blockIdx.x) * blockDim.x * 4;
    cp_async16(&tile[threadIdx.x * 4], in + first + threadIdx.x * 4);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    for (unsigned i = threadIdx.x; i < blockDim.x * 4; i += blockDim.x) out[first + i] = tile[blockDim.x * 4 - 1 - i];
}
REGISTER_KERNEL(self_reverse_async)

// out[i] = in[i] + 1 for i < n.
KERNEL self_increment(float* out, const float* in, int n) {
    for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += int(gridDim.x * blockDim.x)) out[i] = in[i] + 1.0f;
}
REGISTER_KERNEL(self_increment)

// Reads shared memory that another thread may not have written yet.
KERNEL self_no_barrier(float* out) {
    SHARED(float, tile, 64);
    tile[threadIdx.x] = float(threadIdx.x);
    out[threadIdx.x] = tile[63 - threadIdx.x];
}
REGISTER_KERNEL(self_no_barrier)

// Its threads meet at different places. `how` picks which.
KERNEL self_diverge(float* out, int how) {
    bool first = threadIdx.x < 40;
    if (how == 0) {
        if (first) __syncthreads();
        else __syncwarp();
    }
    if (how == 1) {
        if (first) __syncthreads();
        else
            __syncthreads();
    }
    if (how == 2) {
        float d[4] = {};
        uint32_t a[4] = {}, b[2] = {};
        if (first) mma_16816(d, a, b);
        else d[0] = __shfl_xor_sync(kAllLanes, d[0], 1);
        out[threadIdx.x] = d[0];
    }
    if (how == 3) {
        if (first) return;
        __syncwarp();
    }
    if (how == 4 && __shfl_sync(0xffffu, 1, 0) == 1) out[0] = 1;
    if (how == 5 && first) __syncthreads();
    out[threadIdx.x] = 1;
}
REGISTER_KERNEL(self_diverge)

// Writes or reads `p` at an offset in floats.
KERNEL self_poke(float* p, int offset) {
    if (threadIdx.x == 5) p[offset] = 1.0f;
}
REGISTER_KERNEL(self_poke)
KERNEL self_peek(float* out, const float* p, int offset) {
    if (threadIdx.x == 5) out[0] = p[offset];
}
REGISTER_KERNEL(self_peek)

// Breaks a rule. `how` picks which.
KERNEL self_break(float* out, const float* in, int how) {
    SHARED(float, tile, 32);
    DYNAMIC_SHARED(float, dynamic);
    if (how == 0) out[threadIdx.x] = float(load_stream(in + 1).x);
    if (how == 1) out[0] = reinterpret_cast<const float4*>(in + 2)->x;
    if (how == 2) tile[threadIdx.x + 1] = 1.0f;
    if (how == 3) *(tile + 32 + threadIdx.x) = 1.0f;
    if (how == 4) out[0] = dynamic[threadIdx.x + 32];
    if (how == 5) cp_async16(out, in);
    if (how == 6) out[0] = float(100 / int(in[0]));
    if (how == 7) out[threadIdx.x] = dynamic[threadIdx.x] + tile[threadIdx.x];
}
REGISTER_KERNEL(self_break)

// Overflows its stack: each call keeps a page.
__device__ __attribute__((noinline)) static float self_descend(const float* in, int depth) {
    volatile float page[1024];
    page[depth % 1024] = in[0];
    return depth == 0 ? page[0] : self_descend(in, depth - 1) + page[depth % 1024];
}
KERNEL self_overflow(float* out, const float* in, int depth) { out[threadIdx.x] = self_descend(in, depth); }
REGISTER_KERNEL(self_overflow)

#ifndef __CUDACC__
// More static shared memory than a kernel may have; nvcc refuses it.
KERNEL self_large_array(float* out) {
    SHARED(float, tile, 13 * 1024);
    tile[threadIdx.x] = 1.0f;
    out[threadIdx.x] = tile[threadIdx.x];
}
REGISTER_KERNEL(self_large_array)
#endif

// All blocks wait for all others. `counter` starts as 0.
KERNEL self_grid_barrier(float* out, unsigned* counter, unsigned expected) {
    if (threadIdx.x == 0) {
        atomicAdd(counter, 1u);
        while (*static_cast<volatile unsigned*>(counter) < expected) spin_wait();
    }
    __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = float(*counter);
}
REGISTER_COOPERATIVE_KERNEL(self_grid_barrier)

// out: [10, 32] u32, one row an operation; in: [32] u32.
KERNEL self_shuffles(uint32_t* out, const uint32_t* in) {
    unsigned lane = lane_id();
    uint32_t x = in[lane];
    out[0 * 32 + lane] = __shfl_sync(kAllLanes, x, (lane * 7 + 3) % 32);
    out[1 * 32 + lane] = __shfl_xor_sync(kAllLanes, x, 5);
    out[2 * 32 + lane] = __shfl_up_sync(kAllLanes, x, 3);
    out[3 * 32 + lane] = __shfl_down_sync(kAllLanes, x, 9);
    out[4 * 32 + lane] = __ballot_sync(kAllLanes, x % 3 == 0);
    out[5 * 32 + lane] = __reduce_add_sync(kAllLanes, x);
    uint64_t wide = uint64_t(x) << 32 | lane;
    out[6 * 32 + lane] = uint32_t(__shfl_xor_sync(kAllLanes, wide, 1) >> 32);
    out[7 * 32 + lane] = __float_as_uint(warp_sum(float(x)));
    out[8 * 32 + lane] = __float_as_uint(warp_max(float(x)));
    out[9 * 32 + lane] = uint32_t(__popc(x) * 10000 + __clz(int(x)) * 100 + __ffs(int(x)));
}
REGISTER_KERNEL(self_shuffles)

// D = A B `repeats` times. a: [16, 16], b: [16, 8] (row-major) of 16 bits; d: [16, 8] f32. `half` picks f16.
KERNEL self_mma(float* d, const bf16* a, const bf16* b, int half, int repeats) {
    SHARED(uint4, a_tile, 32);
    SHARED(uint4, b_tile, 16);
    unsigned lane = lane_id();
    cp_async16(&a_tile[lane], a + lane * 8);
    cp_async16_or_zero(&b_tile[lane / 2], b + lane / 2 * 8, true);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    uint32_t af[4], bf[2];
    ldmatrix_x4(af, &a_tile[(lane % 8 + lane / 8 % 2 * 8) * 2 + lane / 16]);
    ldmatrix_x2_trans(bf, &b_tile[lane % 16]);
    float acc[4] = {0, 0, 0, 0};
    for (int i = 0; i < repeats; ++i) {
        if (half) mma_16816_f16(acc, af, bf);
        else mma_16816(acc, af, bf);
    }
    for (unsigned i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = acc[i];
}
REGISTER_KERNEL(self_mma)

// out: [4, 32] u32: the four matrices that lanes get of 32 rows of 16 bytes. `transposed` picks the variant.
KERNEL self_ldmatrix(uint32_t* out, const uint4* in, int transposed) {
    SHARED(uint4, tile, 32);
    unsigned lane = lane_id();
    tile[lane] = in[lane];
    __syncwarp();
    uint32_t r[4];
    if (transposed) ldmatrix_x4_trans(r, &tile[lane]);
    else ldmatrix_x4(r, &tile[lane]);
    for (unsigned i = 0; i < 4; ++i) out[i * 32 + lane] = r[i];
}
REGISTER_KERNEL(self_ldmatrix)

// bf16 and f16 of floats, and back. out: [n] u32 pairs (f16 high, bf16 low); back: [n, 2] f32.
KERNEL self_narrow(uint32_t* out, float* back, const float* in, int n) {
    for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) {
        uint32_t halves = pack_f16(in[i], -in[i]), brains = pack_bf16(in[i], -in[i]);
        out[i] = halves << 16 | (brains & 0xffffu);
        back[i * 2] = unpack_f16(halves).x;
        back[i * 2 + 1] = unpack_bf16(brains).x;
    }
}
REGISTER_KERNEL(self_narrow)

// `rounds` barriers and block sums. in, out: [threads].
KERNEL self_block_sum(float* out, const float* in, int rounds) {
    SHARED(float, partial, 32);
    float sum = 0;
    for (int i = 0; i < rounds; ++i) sum = block_sum(in[threadIdx.x], partial);
    out[threadIdx.x] = sum + block_max(in[threadIdx.x], partial);
}
REGISTER_KERNEL(self_block_sum)

// Nothing but barriers of the warp, to measure a switch.
KERNEL self_sync(int rounds) {
    for (int i = 0; i < rounds; ++i) __syncwarp();
}
REGISTER_KERNEL(self_sync)
