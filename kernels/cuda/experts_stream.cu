// The experts' products of few tokens: the weights of each chosen expert stream past once, as those of dense layers do in stream_matmul.cu.
//
// x [num_tokens, cols] bf16 for gates and ups, [num_pairs, cols] bf16 for the way back; matrices [num_experts, rows, cols] bf16, cols a
// multiple of 8; pairs and offsets as in route.cu. Gate: out [num_pairs, rows] bf16 = activation(x G^T) * (x U^T). Store: out [num_pairs, rows] f32.
// Adapters (LoRA) are experts of low rank, one a token: round stores bf16 for the product behind it, and add adds to what out [num_pairs, rows] f32 has.
//
// A block takes 16 rows of one expert and all of its pairs, 8 * TOKEN_TILES at a time; a second round reads the weights again, from L2. With at
// most as many tokens as a tile has columns there is no second round, for a token's experts differ. Blocks are as many as experts can have
// been chosen: where pairs are fewer than experts, a block of the grid's second axis stands for a pair and works if it is the first of its expert,
// else for an expert and works if it was chosen. The order of a sum depends on neither: a token is the same, to the bit, whoever shares the step.
//
// Bytes: chosen experts * rows * cols * 2, twice that of the gate. Floor at 4.3 TB/s of Qwen3-Coder-30B-A3B (8 of 128 experts, 768 x 2048): gate 11.7 us
// and way back 5.9 us for one token, 187 us and 94 us where all experts are chosen.
// Versions: 1 (this); never ran on a GPU.
#include "experts.cuh"

namespace {

constexpr int WARPS = 8, THREADS = WARPS * int(kWarpLanes), TILE = 16, STEP = 32;
constexpr int IN_FLIGHT = 4; // steps whose weights a lane has asked for before it uses the first

// Sums of 16 rows of weights for 8 * TOKEN_TILES pairs: this warp's columns.
template <int TOKEN_TILES> struct Sums {
    float of[TOKEN_TILES][4];

    METHOD void add(const bf16* weights, int first_row, int rows, int cols, const bf16* const (&x)[TOKEN_TILES]) {
        int group = lane_id() / 4, pair = lane_id() % 4;
        // Rows behind the last are computed from the last, and thrown away.
        const bf16* low_row = weights + size_t(min(first_row + group, rows - 1)) * cols;
        const bf16* high_row = weights + size_t(min(first_row + group + 8, rows - 1)) * cols;
        for (int start = warp_id() * STEP; start < cols; start += WARPS * STEP * IN_FLIGHT) {
            uint4 low[IN_FLIGHT], high[IN_FLIGHT], tokens[IN_FLIGHT][TOKEN_TILES];
            UNROLL
            for (int i = 0; i < IN_FLIGHT; ++i) {
                int k = start + i * WARPS * STEP + pair * 8;
                bool inside = k < cols;
                low[i] = inside ? load_stream(low_row + k) : uint4{0, 0, 0, 0};
                high[i] = inside ? load_stream(high_row + k) : uint4{0, 0, 0, 0};
                UNROLL
                for (int t = 0; t < TOKEN_TILES; ++t) tokens[i][t] = inside ? load16(x[t] + k) : uint4{0, 0, 0, 0};
            }
            UNROLL
            for (int i = 0; i < IN_FLIGHT; ++i) {
                if (start + i * WARPS * STEP >= cols) break;
                UNROLL
                for (int t = 0; t < TOKEN_TILES; ++t) {
                    const uint32_t a[4] = {low[i].x, high[i].x, low[i].y, high[i].y}, b[2] = {tokens[i][t].x, tokens[i][t].y};
                    mma_16816(of[t], a, b);
                    const uint32_t c[4] = {low[i].z, high[i].z, low[i].w, high[i].w}, d[2] = {tokens[i][t].z, tokens[i][t].w};
                    mma_16816(of[t], c, d);
                }
            }
        }
    }
};

// Room for the warps' sums; `i` of LEN is element (pair i / 16, row i % 16).
template <int TOKEN_TILES> struct BlockSums {
    static constexpr int LEN = TILE * 8 * TOKEN_TILES;
    float* shared; // [WARPS, LEN]
    METHOD void put(const Sums<TOKEN_TILES>& sums) const {
        int group = lane_id() / 4, pair = lane_id() % 4;
        UNROLL
        for (int t = 0; t < TOKEN_TILES; ++t) {
            UNROLL
            for (int i = 0; i < 4; ++i) shared[warp_id() * LEN + (t * 8 + pair * 2 + i % 2) * TILE + group + (i < 2 ? 0 : 8)] = sums.of[t][i];
        }
    }
    METHOD float get(int i) const {
        float sum = shared[i];
        UNROLL
        for (int w = 1; w < WARPS; ++w) sum += shared[w * LEN + i];
        return sum;
    }
};

// The group of a block.
DEVICE Group group_of(const Pairs& pairs, const uint32_t* experts) {
    if (gridDim.y == unsigned(pairs.num_experts)) return pairs.of(blockIdx.y);
    if (blockIdx.y >= pairs.offsets[pairs.num_experts]) return Group{0, 0, 0};
    Group group = pairs.of(experts[pairs.pairs[blockIdx.y]]);
    return group.begin == int(blockIdx.y) ? group : Group{0, 0, 0};
}

// grid (ceil(rows / 16), min(num_experts, num_pairs)), 256 threads; `Out` is bf16 for what a product reads next, else float.
template <int TOKEN_TILES, Then THEN, class Out>
DEVICE void stream(Out* out, const Products& products, const Pairs& pairs, const uint32_t* experts, int activation) {
    using Room = BlockSums<TOKEN_TILES>;
    constexpr bool IS_GATED = THEN == Then::GATE;
    SHARED(float, first_room, WARPS * Room::LEN);
    SHARED(float, second_room, IS_GATED ? WARPS * Room::LEN : 1);
    Room first_block{first_room}, second_block{second_room};
    Group group = group_of(pairs, experts);
    int first_row = blockIdx.x * TILE;
    for (int begin = group.begin; begin < group.end; begin += 8 * TOKEN_TILES) {
        const bf16* x[TOKEN_TILES];
        UNROLL
        for (int t = 0; t < TOKEN_TILES; ++t) x[t] = products.row_of(pairs.pairs[min(begin + t * 8 + int(lane_id()) / 4, group.end - 1)]);
        Sums<TOKEN_TILES> sums = {};
        sums.add(products.of(products.first, group.expert), first_row, products.rows, products.cols, x);
        first_block.put(sums);
        if constexpr (IS_GATED) {
            sums = {};
            sums.add(products.of(products.second, group.expert), first_row, products.rows, products.cols, x);
            second_block.put(sums);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < Room::LEN; i += THREADS) {
            int index = begin + i / TILE, row = first_row + i % TILE;
            if (index >= group.end || row >= products.rows) continue;
            float sum = first_block.get(i);
            if constexpr (IS_GATED) sum = activate(activation, sum) * second_block.get(i);
            Out* element = out + size_t(pairs.pairs[index]) * products.rows + row;
            if constexpr (THEN == Then::ADD) sum += *element;
            put(element, sum);
        }
        // The smallest tile has no second round, and without a loop nothing is spilled.
        if (TOKEN_TILES == 1) break;
        // The next round writes to the same room.
        __syncthreads();
    }
}

} // namespace

// The kernels: tokens / 8.
#define PLAIN_EXPERT_KERNEL(what, suffix, TOKEN_TILES, THEN, Out)                                                                                 \
    KERNEL_BOUNDS(256) stream_expert_##what##_##suffix(Out* out, const bf16* x, const bf16* down, const uint32_t* pairs, const uint32_t* offsets, \
                                                       const uint32_t* experts, int num_experts, int rows, int cols) {                           \
        stream<TOKEN_TILES, Then::THEN>(out, Products{x, 1, down, nullptr, rows, cols}, Pairs{pairs, offsets, num_experts}, experts, 0);         \
    }                                                                                                                                            \
    REGISTER_KERNEL(stream_expert_##what##_##suffix)
#define EXPERT_KERNELS(suffix, TOKEN_TILES)                                                                                                      \
    KERNEL_BOUNDS(256) stream_expert_gate_##suffix(bf16* out, const bf16* x, const bf16* gate, const bf16* up, const uint32_t* pairs,          \
                                                   const uint32_t* offsets, const uint32_t* experts, int num_experts, int per_token, int rows,   \
                                                   int cols, int activation) {                                                                   \
        stream<TOKEN_TILES, Then::GATE>(out, Products{x, per_token, gate, up, rows, cols}, Pairs{pairs, offsets, num_experts}, experts, activation);         \
    }                                                                                                                                            \
    REGISTER_KERNEL(stream_expert_gate_##suffix)                                                                                                 \
    PLAIN_EXPERT_KERNEL(store, suffix, TOKEN_TILES, STORE, float)                                                                                \
    PLAIN_EXPERT_KERNEL(round, suffix, TOKEN_TILES, ROUND, bf16)                                                                                 \
    PLAIN_EXPERT_KERNEL(add, suffix, TOKEN_TILES, ADD, float)

EXPERT_KERNELS(8, 1)
EXPERT_KERNELS(16, 2)
