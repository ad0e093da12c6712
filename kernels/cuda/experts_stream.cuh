// The experts' products of few tokens: the weights of each chosen expert stream past once, as those of dense layers do (stream.cuh).
//
// x [num_tokens, cols] bf16 for gates and ups, [num_pairs, cols] bf16 for the way back; matrices [num_experts * rows, cols] of a `Weights` type; pairs
// and offsets as in route.cu. Gate: out [num_pairs, rows] bf16 = activation(x G^T) * (x U^T). Store: out [num_pairs, rows] f32. Round: the same in bf16.
// Add: out [num_pairs, rows] f32 += x W^T.
//
// A block takes 16 rows of one expert and all of its pairs, 8 * TOKEN_TILES at a time; a second round reads the weights again, from L2. With at
// most as many tokens as a tile has columns there is no second round, for a token's experts differ. Blocks are as many as experts can have
// been chosen: where pairs are fewer than experts, a block of the grid's second axis stands for a pair and works if it is the first of its expert,
// else for an expert and works if it was chosen. The order of a sum depends on neither: a token is the same, to the bit, whoever shares the step.
#pragma once
#include "experts.cuh"
#include "stream.cuh"

namespace {

// The group of a block.
DEVICE Group group_of(const Pairs& pairs, const uint32_t* experts) {
    if (gridDim.y == unsigned(pairs.num_experts)) return pairs.of(blockIdx.y);
    if (blockIdx.y >= pairs.offsets[pairs.num_experts]) return Group{0, 0, 0};
    Group group = pairs.of(experts[pairs.pairs[blockIdx.y]]);
    return group.begin == int(blockIdx.y) ? group : Group{0, 0, 0};
}

// A lane's rows of x: those of pairs of a group.
template <int TOKEN_TILES> struct PairRows {
    const bf16* rows[TOKEN_TILES];
    METHOD const bf16* of(int tile) const { return rows[tile]; }
};

// grid (ceil(rows / 16), min(num_experts, num_pairs)), 256 threads; `Out` is bf16 for what a product reads next, else float. Without `HAS_ROUNDS` no
// group may have more pairs than a tile has columns.
template <Then THEN, int TOKEN_TILES, bool HAS_ROUNDS, class Weights, class Out>
DEVICE void stream(Out* out, const Products<Weights>& products, const Pairs& pairs, const uint32_t* experts, int activation) {
    using Room = BlockSums<TOKEN_TILES>;
    constexpr bool IS_GATED = THEN == Then::GATE;
    SHARED(float, first_room, WARPS * Room::LEN);
    SHARED(float, second_room, IS_GATED ? WARPS * Room::LEN : 1);
    Room first_block{first_room}, second_block{second_room};
    Group group = group_of(pairs, experts);
    int first_row = blockIdx.x * TILE;
    for (int begin = group.begin; begin < group.end; begin += 8 * TOKEN_TILES) {
        PairRows<TOKEN_TILES> x;
        UNROLL
        for (int t = 0; t < TOKEN_TILES; ++t) x.rows[t] = products.row_of(pairs.pairs[min(begin + t * 8 + int(lane_id()) / 4, group.end - 1)]);
        const WeightRows rows{products.first_row_of(group.expert), first_row, products.rows};
        first_block.put(warp_sums<TOKEN_TILES>(products.first, rows, x, products.cols));
        if constexpr (IS_GATED) second_block.put(warp_sums<TOKEN_TILES>(products.second, rows, x, products.cols));
        __syncthreads();
        for (int i = threadIdx.x; i < Room::LEN; i += THREADS) {
            int index = begin + i / TILE, row = first_row + i % TILE;
            if (index >= group.end || row >= products.rows) continue;
            float sum = first_block.get(i);
            if constexpr (IS_GATED) sum = activate(activation, sum) * second_block.get(i);
            put_then<THEN>(out + size_t(pairs.pairs[index]) * products.rows + row, sum);
        }
        // Without a loop nothing is spilled.
        if (!HAS_ROUNDS) break;
        // The next round writes to the same room.
        __syncthreads();
    }
}

} // namespace
