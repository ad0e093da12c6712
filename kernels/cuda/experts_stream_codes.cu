// The experts' products of few tokens with weights that are codes (codes.cuh), cols a multiple of 32, of fp8 of 128: experts_stream.cuh says how.
//
// One size of tile, of 8 pairs: 64 tokens of Qwen3-Coder-30B-A3B give an expert 4 on average, and one that has more than 8 finds its codes in L2.
//
// Bytes: chosen experts * rows * cols * (1/2 + 1/8) for int4 with minimums, as AWQ and GPTQ are, twice that of the gate. Floor at 1 TB/s, a card of 24 GB, of
// Qwen3-Coder-30B-A3B (8 of 128 experts, 768 x 2048): gate 15.7 us and way back 7.9 us for one token, 252 us and 126 us where all experts are chosen.
// Registers are asked for by two blocks a multiprocessor: without a word about it the compiler spills a few for a third.
// Versions: 1 (this); never ran on a GPU.
#include "code_weights.cuh"
#include "experts_stream.cuh"

#define EXPERT_CODE_KERNELS(name, Codes)                                                                                                          \
    KERNEL_BOUNDS(256, 2) stream_expert_gate_##name(bf16* out, const bf16* x, const uint8_t* gate, const void* gate_factors, const uint8_t* up,     \
                                                 const void* up_factors, const uint32_t* pairs, const uint32_t* offsets, const uint32_t* experts, \
                                                 int num_experts, int per_token, int rows, int cols, int activation) {                           \
        const Products<CodeWeights<Codes>> products{x, per_token, {gate, gate_factors}, {up, up_factors}, rows, cols};                           \
        stream<Then::GATE, 1, true>(out, products, Pairs{pairs, offsets, num_experts}, experts, activation);                                     \
    }                                                                                                                                            \
    REGISTER_KERNEL(stream_expert_gate_##name)                                                                                                   \
    KERNEL_BOUNDS(256, 2) stream_expert_store_##name(float* out, const bf16* x, const uint8_t* down, const void* factors, const uint32_t* pairs,    \
                                                  const uint32_t* offsets, const uint32_t* experts, int num_experts, int rows, int cols) {       \
        const Products<CodeWeights<Codes>> products{x, 1, {down, factors}, {}, rows, cols};                                                      \
        stream<Then::STORE, 1, true>(out, products, Pairs{pairs, offsets, num_experts}, experts, 0);                                             \
    }                                                                                                                                            \
    REGISTER_KERNEL(stream_expert_store_##name)

FOR_EACH_STORED_CODES(EXPERT_CODE_KERNELS)
