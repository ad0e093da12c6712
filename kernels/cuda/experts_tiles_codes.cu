// The experts' products of many tokens with weights that are codes (codes.cuh), cols a multiple of 32, of fp8 of 128: experts_tiles.cuh says how.
//
// A step is a run: a thread asks for its codes and factors of the next one before it computes, and writes those it has as bf16 to shared memory. A
// weight is rounded once, as where a dense matrix of codes meets many tokens (widen_codes.cu).
//
// Not the room of dense layers: the matrices of Qwen3-Coder-30B-A3B (128 experts, 768 x 2048) take 403 MB in bf16 and 126 MB as int4 with minimums, and a
// step of 2048 tokens would write and read 2.4 GB a layer, 2.4 ms at the 1 TB/s of a card of 24 GB, for 154 GFLOP that it does in 1.5 ms at
// 100 TFLOP/s. Here it reads the 378 MB of codes, 0.4 ms. A block widens a weight in about five instructions for 128 flops of mma: 5 lanes' slots
// of the 16 that pass meanwhile on an SM of 1024 flops a cycle.
//
// Bytes: those of the codes once for each 64 of an expert's pairs, all but the first from L2.
// Versions: 1 (this); never ran on a GPU.
#include "codes.cuh"
#include "experts_tiles.cuh"

namespace {

// Weights that are widened on their way to the tile.
template <class Codes> struct TileCodes {
    const uint8_t* data;
    const void* factors;

    // Holds the codes of the step that is filled next: nibbles of two, of which a thread loads 8 bytes at once.
    struct Part {
        Codes codes;
        size_t row;
        uint2 raw;
        Factors own;
        METHOD Part(const TileCodes& weights, size_t row, int cols) : codes{weights.data, weights.factors}, row(row) { fetch(0, cols); }
        METHOD void fetch(int k, int cols) {
            if (k / STEP % Codes::RUNS == 0) raw = codes.load(row, cols, k, threadIdx.x % 4);
            own = codes.factors(row, cols, k);
        }
        METHOD void fill(bf16* stage, int third, int k, int cols) {
            float values[8];
            widen_run<Codes>(values, raw, k / STEP % Codes::RUNS, own);
            int part = threadIdx.x % 4;
            const uint32_t words[4] = {pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3]), pack_bf16(values[4], values[5]),
                                       pack_bf16(values[6], values[7])};
            // Where the first and the fifth of the lane's codes belong.
            *reinterpret_cast<uint2*>(place_of(stage, third) + column_of<Codes::GROUPS>(part, 0)) = uint2{words[0], words[1]};
            *reinterpret_cast<uint2*>(place_of(stage, third) + column_of<Codes::GROUPS>(part, 4)) = uint2{words[2], words[3]};
            if (k + STEP < cols) fetch(k + STEP, cols);
        }
    };
};

} // namespace

#define EXPERT_CODE_TILES(name, Codes)                                                                                                           \
    KERNEL_BOUNDS(256) tile_expert_gate_##name(bf16* out, const bf16* x, const uint8_t* gate, const void* gate_factors, const uint8_t* up,       \
                                               const void* up_factors, const uint32_t* pairs, const uint32_t* offsets, int num_experts,          \
                                               int per_token, int rows, int cols, int activation) {                                              \
        SHARED(uint4, room, STAGES * STAGE / 8);                                                                                                 \
        const Products<TileCodes<Codes>> products{x, per_token, {gate, gate_factors}, {up, up_factors}, rows, cols};                             \
        tile_gate(out, reinterpret_cast<bf16*>(room), products, Pairs{pairs, offsets, num_experts}, activation);                                 \
    }                                                                                                                                            \
    REGISTER_KERNEL(tile_expert_gate_##name)                                                                                                     \
    KERNEL_BOUNDS(256) tile_expert_store_##name(float* out, const bf16* x, const uint8_t* down, const void* factors, const uint32_t* pairs,      \
                                                const uint32_t* offsets, int num_experts, int rows, int cols) {                                 \
        SHARED(uint4, room, STAGES * STAGE / 8);                                                                                                 \
        const Products<TileCodes<Codes>> products{x, 1, {down, factors}, {}, rows, cols};                                                        \
        tile_plain<Then::STORE>(out, reinterpret_cast<bf16*>(room), products, Pairs{pairs, offsets, num_experts});                                            \
    }                                                                                                                                            \
    REGISTER_KERNEL(tile_expert_store_##name)

FOR_EACH_STORED_CODES(EXPERT_CODE_TILES)
