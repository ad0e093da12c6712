// The experts' products of many tokens: tiles of 64 pairs of one expert and 128 rows of its weights, by tensor cores.
//
// Shapes as in experts_stream.cu. A block of gates has 64 rows of the gate and the same 64 of the up, so that a lane holds both factors of an element; one
// of the way back has 128 rows. Columns come 32 at a time, asynchronously into shared memory, three steps ahead of each other; 8 warps take
// 32 rows by 32 pairs each. Rows of shared memory are 80 bytes apart, so that the eight of an ldmatrix lie in different banks.
//
// Which expert a block of the grid's second axis has is found by a warp's prefix sum over the tiles of the experts; there are never more than
// num_pairs / 64 whole ones and a last one for each expert that was chosen. Blocks behind the last tile end at once.
//
// Bytes: the weights of an expert once for each 64 of its pairs, of which all but the first come from L2 while its tiles run side by side; x likewise.
// Floor of 2048 tokens of Qwen3-Coder-30B-A3B (8 of 128 experts, 768 x 2048, 128 pairs an expert) on an H200: weights 281 us a layer at 4.3 TB/s, gate,
// up and way back together; flops 154 G, 195 us at 790 TFLOP/s. mma.sync reaches 60 to 70 % of that on this architecture, so that both are near
// each other.
// Versions: 1 (this); never ran on a GPU.
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

// Where a thread's 16-byte parts of a step come from: two of weights and one of a pair's row.
struct Sources {
    const bf16* rows[3];
    int part; // of the four of a row

    METHOD void start(bf16* stage, int k, int cols) const {
        bool inside = k + part * 8 < cols;
        UNROLL
        for (int i = 0; i < 3; ++i) {
            int row = int(threadIdx.x) / 4 + i * (THREADS / 4);
            cp_async16_or_zero(stage + row * STRIDE + part * 8, rows[i] + (inside ? k + part * 8 : 0), inside);
        }
    }
};

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

// Computes a tile; `second_row` is where the rows of the second half begin, in `second`.
DEVICE void sum_tile(WarpTile& tile, bf16* shared, const Products& products, const Group& group, const uint32_t* pairs, const bf16* second, int first_row,
                     int second_row) {
    int row = int(threadIdx.x) / 4, cols = products.cols;
    // Rows and pairs behind the last are computed from the last, and thrown away.
    auto weights = [&](const bf16* matrix, int row) { return products.of(matrix, group.expert) + size_t(min(row, products.rows - 1)) * cols; };
    const Sources sources{{weights(products.first, first_row + row), weights(second, second_row + row),
                           products.row_of(pairs[min(group.begin + row, group.end - 1)])}, int(threadIdx.x) % 4};
    int num_steps = (cols + STEP - 1) / STEP;
    UNROLL
    for (int step = 0; step < STAGES - 1; ++step) {
        if (step < num_steps) sources.start(shared + step * STAGE, step * STEP, cols);
        cp_async_commit();
    }
    for (int step = 0; step < num_steps; ++step) {
        cp_async_wait<STAGES - 2>();
        // Also: all warps are done with the stage that is filled next.
        __syncthreads();
        int next = step + STAGES - 1;
        if (next < num_steps) sources.start(shared + next % STAGES * STAGE, next * STEP, cols);
        cp_async_commit();
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

} // namespace

// grid (ceil(rows / 64), num_pairs / 64 + min(num_experts, num_pairs)), 256 threads.
KERNEL_BOUNDS(256) tile_expert_gate(bf16* out, const bf16* x, const bf16* gate, const bf16* up, const uint32_t* pairs, const uint32_t* offsets,
                                    int num_experts, int per_token, int rows, int cols, int activation) {
    SHARED(uint4, room, STAGES * STAGE / 8);
    Group group = tile_of(Pairs{pairs, offsets, num_experts}, blockIdx.y);
    if (group.is_empty()) return;
    int first_row = blockIdx.x * (ROWS / 2);
    const Products products{x, per_token, gate, up, rows, cols};
    WarpTile tile = {};
    sum_tile(tile, reinterpret_cast<bf16*>(room), products, group, pairs, up, first_row, first_row);
    for_each_element([&](int row, int pair, int j, int e) {
        if (first_row + row >= rows || group.begin + pair >= group.end) return;
        float value = activate(activation, tile.sums[0][j][e]) * tile.sums[1][j][e];
        put(out + size_t(pairs[group.begin + pair]) * rows + first_row + row, value);
    });
}
REGISTER_KERNEL(tile_expert_gate)

namespace {

// grid (ceil(rows / 128), as above), 256 threads.
template <Then THEN, class Out> DEVICE void plain(Out* out, const Products& products, const Pairs& pairs) {
    SHARED(uint4, room, STAGES * STAGE / 8);
    Group group = tile_of(pairs, blockIdx.y);
    if (group.is_empty()) return;
    int first_row = blockIdx.x * ROWS;
    WarpTile tile = {};
    sum_tile(tile, reinterpret_cast<bf16*>(room), products, group, pairs.pairs, products.first, first_row, first_row + ROWS / 2);
    for_each_element([&](int row, int pair, int j, int e) {
        UNROLL
        for (int i = 0; i < 2; ++i) {
            int out_row = first_row + i * (ROWS / 2) + row;
            if (out_row >= products.rows || group.begin + pair >= group.end) continue;
            Out* element = out + size_t(pairs.pairs[group.begin + pair]) * products.rows + out_row;
            float sum = tile.sums[i][j][e];
            if constexpr (THEN == Then::ADD) sum += *element;
            put(element, sum);
        }
    });
}

} // namespace

#define PLAIN_EXPERT_KERNEL(what, THEN, Out)                                                                                                    \
    KERNEL_BOUNDS(256) tile_expert_##what(Out* out, const bf16* x, const bf16* down, const uint32_t* pairs, const uint32_t* offsets,             \
                                          int num_experts, int rows, int cols) {                                                                 \
        plain<Then::THEN>(out, Products{x, 1, down, nullptr, rows, cols}, Pairs{pairs, offsets, num_experts});                                   \
    }                                                                                                                                            \
    REGISTER_KERNEL(tile_expert_##what)

PLAIN_EXPERT_KERNEL(store, STORE, float)
PLAIN_EXPERT_KERNEL(round, ROUND, bf16)
PLAIN_EXPERT_KERNEL(add, ADD, float)
