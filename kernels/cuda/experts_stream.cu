// The experts' products of few tokens with weights in bf16, cols a multiple of 8: experts_stream.cuh says how.
//
// Bytes: chosen experts * rows * cols * 2, twice that of the gate. Floor at 4.3 TB/s of Qwen3-Coder-30B-A3B (8 of 128 experts, 768 x 2048): gate 11.7 us
// and way back 5.9 us for one token, 187 us and 94 us where all experts are chosen.
// Versions: 1, sums of its own; 2 (this), those of stream.cuh. Never ran on a GPU.
#include "experts.cuh"
#include "experts_stream.cuh"
#include "plain_weights.cuh"

// The kernels: tokens / 8, and whether an expert may have more.
#define PLAIN_EXPERT_KERNEL(what, suffix, THEN, TOKEN_TILES, HAS_ROUNDS, Out)                                                                     \
    KERNEL_BOUNDS(256) stream_expert_##what##_##suffix(Out* out, const bf16* x, const bf16* down, const uint32_t* pairs, const uint32_t* offsets, \
                                                       const uint32_t* experts, int num_experts, int rows, int cols) {                           \
        const Products<PlainWeights<bf16>> products{x, 1, {down, nullptr}, {}, rows, cols};                                                      \
        stream<Then::THEN, TOKEN_TILES, HAS_ROUNDS>(out, products, Pairs{pairs, offsets, num_experts}, experts, 0);                              \
    }                                                                                                                                            \
    REGISTER_KERNEL(stream_expert_##what##_##suffix)
#define EXPERT_KERNELS(suffix, TOKEN_TILES, HAS_ROUNDS)                                                                                          \
    KERNEL_BOUNDS(256) stream_expert_gate_##suffix(bf16* out, const bf16* x, const bf16* gate, const bf16* up, const uint32_t* pairs,          \
                                                   const uint32_t* offsets, const uint32_t* experts, int num_experts, int per_token, int rows,   \
                                                   int cols, int activation) {                                                                   \
        const Products<PlainWeights<bf16>> products{x, per_token, {gate, nullptr}, {up, nullptr}, rows, cols};                                   \
        stream<Then::GATE, TOKEN_TILES, HAS_ROUNDS>(out, products, Pairs{pairs, offsets, num_experts}, experts, activation);                     \
    }                                                                                                                                            \
    REGISTER_KERNEL(stream_expert_gate_##suffix)                                                                                                 \
    PLAIN_EXPERT_KERNEL(store, suffix, STORE, TOKEN_TILES, HAS_ROUNDS, float)                                                                    \
    PLAIN_EXPERT_KERNEL(round, suffix, ROUND, TOKEN_TILES, HAS_ROUNDS, bf16)                                                                     \
    PLAIN_EXPERT_KERNEL(add, suffix, ADD, TOKEN_TILES, HAS_ROUNDS, float)

EXPERT_KERNELS(8, 1, false)
EXPERT_KERNELS(16, 2, true)
