// The experts' products of many tokens: tiles of 64 pairs of one expert and 128 rows of its weights, by tensor cores.
//
// Shapes as in experts_stream.cuh. A block of gates has 64 rows of the gate and the same 64 of the up, so that a lane holds both factors of an element;
// one of the way back has 128 rows. Columns come 32 at a time into shared memory, three steps ahead of each other; 8 warps take
// 32 rows by 32 pairs each. Rows of shared memory are 80 bytes apart, so that the eight of an ldmatrix lie in different banks.
//
// Which expert a block of the grid's second axis has is found by a warp's prefix sum over the tiles of the experts; there are never more than
// num_pairs / 64 whole ones and a last one for each expert that was chosen. Blocks behind the last tile end at once.
#pragma once
#include "experts.cuh"

namespace {

constexpr int WARPS = 8, THREADS = WARPS * int(kWarpLanes);
constexpr int PAIRS = 64, ROWS = 128, STEP = 32, STAGES = 3;
constexpr int STRIDE = STEP + 8;            // of a row in shared memory
constexpr int STAGE = (ROWS + PAIRS) * STRIDE; // weights, then pairs

// The pairs of tile `index`, of which every lane finds the same.
DEVICE Group tile_of(const Pairs& pairs, int index) {
    for (int start = 0; start < pairs.num_experts; start += kWarpLanes) {
        int lane = lane_id(), expert = start + lane;
        Group own = expert < pairs.num_experts ? pairs.of(expert) : Group{0, 0, 0};
        int num_tiles = (own.end - own.begin + PAIRS - 1) / PAIRS, end = num_tiles;
        for (int d = 1; d < int(kWarpLanes); d *= 2) {
            int before = __shfl_up_sync(kAllLanes, end, d);
            if (lane >= d) end += before;
        }
        uint32_t found = __ballot_sync(kAllLanes, index < end);
        if (found) {
            int source = __ffs(int(found)) - 1;
            int first_tile = __shfl_sync(kAllLanes, end - num_tiles, source);
            int begin = __shfl_sync(kAllLanes, own.begin, source) + (index - first_tile) * PAIRS;
            return Group{start + source, begin, min(__shfl_sync(kAllLanes, own.end, source), begin + PAIRS)};
        }
        index -= __shfl_sync(kAllLanes, end, kWarpLanes - 1);
    }
    return Group{0, 0, 0};
}

// A thread has part `threadIdx.x % 4`, of 8 columns, of a row of each third of a stage: two thirds are weights, one is pairs.
DEVICE bf16* place_of(bf16* stage, int third) { return stage + (int(threadIdx.x) / 4 + third * (THREADS / 4)) * STRIDE; }

// Brings a thread's part of a row of bf16 to its third of the stage, asynchronously; zeros behind the last column.
DEVICE void start_part(bf16* stage, int third, const bf16* row, int k, int cols) {
    int part = threadIdx.x % 4;
    bool inside = k + part * 8 < cols;
    cp_async16_or_zero(place_of(stage, third) + part * 8, row + (inside ? k + part * 8 : 0), inside);
}

// A warp's 32 rows (two fragments of 16, ROWS / 2 apart) by 32 pairs.
struct WarpTile {
    float sums[2][4][4];

    METHOD void add(const bf16* stage, int row, int pair) {
        int lane = lane_id();
        const bf16* weights = stage + (row + lane % 16) * STRIDE + lane / 16 * 8;
        const bf16* x = stage + (ROWS + pair + lane / 16 * 8 + lane % 8) * STRIDE + lane / 8 % 2 * 8;
        UNROLL
        for (int k = 0; k < STEP; k += 16) {
            uint32_t a[2][4], b[2][4];
            UNROLL
            for (int i = 0; i < 2; ++i) {
                ldmatrix_x4(a[i], weights + i * (ROWS / 2) * STRIDE + k);
                ldmatrix_x4(b[i], x + i * 16 * STRIDE + k);
            }
            UNROLL
            for (int i = 0; i < 2; ++i) {
                UNROLL
                for (int j = 0; j < 4; ++j) {
                    const uint32_t column[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                    mma_16816(sums[i][j], a[i], column);
                }
            }
        }
    }
};

// Computes a tile; `second_row` is where the rows of the second half begin, in `second`. `Weights` has a thread's parts of two rows, and brings those
// of a step to a stage, step by step.
template <class Weights>
DEVICE void sum_tile(WarpTile& tile, bf16* shared, const Products<Weights>& products, const Group& group, const uint32_t* pairs, const Weights& second,
                     int first_row, int second_row) {
    int row = int(threadIdx.x) / 4, cols = products.cols;
    // Rows and pairs behind the last are computed from the last, and thrown away.
    auto row_of = [&](int row) { return products.first_row_of(group.expert) + min(row, products.rows - 1); };
    typename Weights::Part first_part(products.first, row_of(first_row + row), cols), second_part(second, row_of(second_row + row), cols);
    const bf16* x = products.row_of(pairs[min(group.begin + row, group.end - 1)]);
    int num_steps = (cols + STEP - 1) / STEP;
    auto fill = [&](int step) {
        bf16* stage = shared + step % STAGES * STAGE;
        if (step < num_steps) {
            first_part.fill(stage, 0, step * STEP, cols);
            second_part.fill(stage, 1, step * STEP, cols);
            start_part(stage, 2, x, step * STEP, cols);
        }
        cp_async_commit();
    };
    UNROLL
    for (int step = 0; step < STAGES - 1; ++step) fill(step);
    for (int step = 0; step < num_steps; ++step) {
        cp_async_wait<STAGES - 2>();
        // Also: all warps are done with the stage that is filled next, and what they wrote to this one is seen.
        __syncthreads();
        fill(step + STAGES - 1);
        tile.add(shared + step % STAGES * STAGE, int(warp_id()) % 4 * 16, int(warp_id()) / 4 * 32);
    }
}

// Hands out the elements of a warp's tile: `put(i, row, index, sum)`, the row counted from the fragment's block of ROWS / 2 rows.
template <class Put> DEVICE void for_each_element(const Put& put) {
    int row = int(warp_id()) % 4 * 16 + int(lane_id()) / 4, pair = int(warp_id()) / 4 * 32 + int(lane_id()) % 4 * 2;
    UNROLL
    for (int j = 0; j < 4; ++j) {
        UNROLL
        for (int e = 0; e < 4; ++e) put(row + e / 2 * 8, pair + j * 8 + e % 2, j, e);
    }
}

// grid (ceil(rows / 64), num_pairs / 64 + min(num_experts, num_pairs)), 256 threads.
template <class Weights> DEVICE void tile_gate(bf16* out, bf16* shared, const Products<Weights>& products, const Pairs& pairs, int activation) {
    Group group = tile_of(pairs, blockIdx.y);
    if (group.is_empty()) return;
    int first_row = blockIdx.x * (ROWS / 2);
    WarpTile tile = {};
    sum_tile(tile, shared, products, group, pairs.pairs, products.second, first_row, first_row);
    for_each_element([&](int row, int pair, int j, int e) {
        if (first_row + row >= products.rows || group.begin + pair >= group.end) return;
        float value = activate(activation, tile.sums[0][j][e]) * tile.sums[1][j][e];
        put(out + size_t(pairs.pairs[group.begin + pair]) * products.rows + first_row + row, value);
    });
}

// grid (ceil(rows / 128), as above), 256 threads.
template <Then THEN, class Weights, class Out> DEVICE void tile_plain(Out* out, bf16* shared, const Products<Weights>& products, const Pairs& pairs) {
    Group group = tile_of(pairs, blockIdx.y);
    if (group.is_empty()) return;
    int first_row = blockIdx.x * ROWS;
    WarpTile tile = {};
    sum_tile(tile, shared, products, group, pairs.pairs, products.first, first_row, first_row + ROWS / 2);
    for_each_element([&](int row, int pair, int j, int e) {
        UNROLL
        for (int i = 0; i < 2; ++i) {
            int out_row = first_row + i * (ROWS / 2) + row;
            if (out_row >= products.rows || group.begin + pair >= group.end) continue;
            put_then<THEN>(out + size_t(pairs.pairs[group.begin + pair]) * products.rows + out_row, tile.sums[i][j][e]);
        }
    });
}

} // namespace
