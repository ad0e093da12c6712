// The experts' products of many tokens with weights in bf16, cols a multiple of 8: experts_tiles.cuh says how.
//
// Bytes: the weights of an expert once for each 64 of its pairs, of which all but the first come from L2 while its tiles run side by side; x likewise.
// Floor of 2048 tokens of Qwen3-Coder-30B-A3B (8 of 128 experts, 768 x 2048, 128 pairs an expert) on an H200: weights 281 us a layer at 4.3 TB/s, gate,
// up and way back together; flops 154 G, 195 us at 790 TFLOP/s. mma.sync reaches 60 to 70 % of that on this architecture, so that both are near
// each other.
// Versions: 1 (this); never ran on a GPU.
#include "experts.cuh"
#include "experts_tiles.cuh"

namespace {

// Weights that come to the tile as they lie.
struct TileBf16 {
    const bf16* data;
    struct Part {
        const bf16* row;
        METHOD Part(const TileBf16& weights, size_t row, int cols) : row(weights.data + row * cols) {}
        METHOD void fill(bf16* stage, int third, int k, int cols) const { start_part(stage, third, row, k, cols); }
    };
};

} // namespace

KERNEL_BOUNDS(256) tile_expert_gate(bf16* out, const bf16* x, const bf16* gate, const bf16* up, const uint32_t* pairs, const uint32_t* offsets,
                                    int num_experts, int per_token, int rows, int cols, int activation) {
    SHARED(uint4, room, STAGES * STAGE / 8);
    const Products<TileBf16> products{x, per_token, {gate}, {up}, rows, cols};
    tile_gate(out, reinterpret_cast<bf16*>(room), products, Pairs{pairs, offsets, num_experts}, activation);
}
REGISTER_KERNEL(tile_expert_gate)

#define PLAIN_EXPERT_KERNEL(what, THEN, Out)                                                                                                    \
    KERNEL_BOUNDS(256) tile_expert_##what(Out* out, const bf16* x, const bf16* down, const uint32_t* pairs, const uint32_t* offsets,             \
                                          int num_experts, int rows, int cols) {                                                                 \
        SHARED(uint4, room, STAGES * STAGE / 8);                                                                                                 \
        const Products<TileBf16> products{x, 1, {down}, {}, rows, cols};                                                                         \
        tile_plain<Then::THEN>(out, reinterpret_cast<bf16*>(room), products, Pairs{pairs, offsets, num_experts});                                \
    }                                                                                                                                            \
    REGISTER_KERNEL(tile_expert_##what)

PLAIN_EXPERT_KERNEL(store, STORE, float)
PLAIN_EXPERT_KERNEL(round, ROUND, bf16)
PLAIN_EXPERT_KERNEL(add, ADD, float)
