// Products of a few rows with a large matrix, whatever its elements: the weights stream past once and the tensor cores do the rest. Dense
// layers' kernels are made here, those of experts in experts_stream.cuh, of the same sums.
//
// x [num_rows, cols] bf16; W [rows, cols] of a `Weights` type, which says how a lane loads its share of a step and adds the step's products.
// Store: out [num_rows, rows] f32 = sum + bias, or += sum + bias. Gate: out [num_rows, rows] bf16 = activation(x G^T + g) * (x U^T + u), or without
// the second factor where `up` is null. Every bias may be null.
//
// The idea. An mma multiplies 16 rows of weights with 8 tokens, so that up to 8 tokens cost what one does. Its sum over k may take k in
// any order, as long as both operands take the same: so a lane loads neighbouring bytes of a row, past L1, and calls them what the
// fragment wants. No shared memory, no shuffles before the end. The warps of a block share its 16 rows and take steps in turn;
// their sums are added in the order of the warps. The order of a sum does not depend on the number of tokens: a token's result is
// the same, to the bit, whoever shares the batch.
#pragma once
#include "common.cuh"

namespace {

constexpr int WARPS = 8;    // of a block
constexpr int THREADS = WARPS * int(kWarpLanes);
constexpr int TILE = 16;    // rows of weights of an mma
constexpr int RUN = 32;     // columns of two mmas: 8 elements a lane

// Sums of 16 rows of weights for 8 * TOKEN_TILES tokens, an mma's result each.
template <int TOKEN_TILES> struct Sums { float of[TOKEN_TILES][4]; };

// The tokens' values of a run, as the two mmas take them.
template <int TOKEN_TILES> struct Run { uint4 of[TOKEN_TILES]; };

// Adds the two products of a run to `sum`. `low` and `high` are pairs of bf16, the lane's weights of rows group and group + 8.
DEVICE void mma_run(float (&sum)[4], const uint32_t (&low)[4], const uint32_t (&high)[4], const uint4& x) {
    const uint32_t first[4] = {low[0], high[0], low[1], high[1]}, x_first[2] = {x.x, x.y};
    mma_16816(sum, first, x_first);
    const uint32_t second[4] = {low[2], high[2], low[3], high[3]}, x_second[2] = {x.z, x.w};
    mma_16816(sum, second, x_second);
}

// The 16 rows of weights of a block: `num` of a matrix, which begins with row `begin` of all that lie behind each other.
struct WeightRows {
    size_t begin;
    int first, num;
    // Rows behind the last are computed from the last, and thrown away; tokens too.
    METHOD size_t of(int row) const { return begin + min(first + row, num - 1); }
};

// A lane's rows of x: the tokens from `first` on.
struct TokenRows {
    const bf16* x; // [num, cols]
    int first, num, cols;
    METHOD const bf16* of(int tile) const { return x + size_t(min(first + tile * 8 + int(lane_id()) / 4, num - 1)) * cols; }
};

// This warp's share of the sums of 16 rows of weights and 8 * TOKEN_TILES tokens. `Tokens` has a lane's row of each 8.
template <int TOKEN_TILES, class Weights, class Tokens>
DEVICE Sums<TOKEN_TILES> warp_sums(const Weights& weights, const WeightRows& rows, const Tokens& x, int cols) {
    constexpr int RUNS = Weights::RUNS, STEP = RUNS * RUN;
    int group = lane_id() / 4, pair = lane_id() % 4;
    size_t low_row = rows.of(group), high_row = rows.of(group + 8);
    // Steps whose weights a lane has asked for before it uses the first: as many as registers allow.
    constexpr int IN_FLIGHT = TOKEN_TILES > 2 ? 2 / RUNS : 4;
    Sums<TOKEN_TILES> sums = {};
    for (int start = warp_id() * STEP; start < cols; start += WARPS * STEP * IN_FLIGHT) {
        typename Weights::Raw low[IN_FLIGHT], high[IN_FLIGHT];
        Run<TOKEN_TILES> tokens[IN_FLIGHT][RUNS];
        UNROLL
        for (int i = 0; i < IN_FLIGHT; ++i) {
            int k = start + i * WARPS * STEP;
            bool inside = k + pair * 8 < cols;
            low[i] = inside ? weights.load(low_row, cols, k, pair) : Weights::zero();
            high[i] = inside ? weights.load(high_row, cols, k, pair) : Weights::zero();
            UNROLL
            for (int run = 0; run < RUNS; ++run) {
                UNROLL
                for (int t = 0; t < TOKEN_TILES; ++t) {
                    int begin = k + run * RUN;
                    tokens[i][run].of[t] = begin + pair * 8 < cols ? Weights::load_x(x.of(t) + begin, pair) : uint4{0, 0, 0, 0};
                }
            }
        }
        UNROLL
        for (int i = 0; i < IN_FLIGHT; ++i) {
            int k = start + i * WARPS * STEP;
            if (k >= cols) break;
            weights.template add<TOKEN_TILES>(sums, low[i], high[i], tokens[i], low_row, high_row, cols, k);
        }
    }
    return sums;
}

// Adds the warps' sums in their order; `i` of 16 * 8 * TOKEN_TILES is element (token i / 16, row i % 16), the same on each thread.
template <int TOKEN_TILES> struct BlockSums {
    static constexpr int LEN = TILE * 8 * TOKEN_TILES;
    float* shared; // [WARPS, LEN]
    METHOD void put(const Sums<TOKEN_TILES>& sums) const {
        int group = lane_id() / 4, pair = lane_id() % 4;
        float* own = shared + warp_id() * LEN;
        UNROLL
        for (int t = 0; t < TOKEN_TILES; ++t) {
            UNROLL
            for (int i = 0; i < 4; ++i) own[(t * 8 + pair * 2 + i % 2) * TILE + group + (i < 2 ? 0 : 8)] = sums.of[t][i];
        }
    }
    METHOD float get(int i) const {
        float sum = shared[i];
        UNROLL
        for (int w = 1; w < WARPS; ++w) sum += shared[w * LEN + i];
        return sum;
    }
};

// grid (ceil(rows / 16), ceil(num_rows / (8 * TOKEN_TILES))), 256 threads.
template <int TOKEN_TILES, class Weights>
DEVICE void stream_store(float* out, const bf16* x, const Weights& weights, const float* bias, int num_rows, int rows, int cols, int adds) {
    SHARED(float, room, WARPS * BlockSums<TOKEN_TILES>::LEN);
    BlockSums<TOKEN_TILES> block{room};
    int first_row = blockIdx.x * TILE, first_token = blockIdx.y * 8 * TOKEN_TILES;
    const TokenRows tokens{x, first_token, num_rows, cols};
    block.put(warp_sums<TOKEN_TILES>(weights, WeightRows{0, first_row, rows}, tokens, cols));
    __syncthreads();
    for (int i = threadIdx.x; i < BlockSums<TOKEN_TILES>::LEN; i += THREADS) {
        int token = first_token + i / TILE, row = first_row + i % TILE;
        if (token >= num_rows || row >= rows) continue;
        float sum = block.get(i) + (bias ? bias[row] : 0.0f);
        float* to = out + size_t(token) * rows + row;
        *to = adds ? *to + sum : sum;
    }
}

// A matrix and its bias; null where there is none.
template <class Weights> struct Affine {
    Weights weights;
    const float* bias;
    METHOD bool is_there() const { return weights.is_there(); }
    METHOD float with_bias(float sum, int row) const { return bias ? sum + bias[row] : sum; }
};

// grid as above. A product and its function, or two over the same tokens, one gated with the other.
template <int TOKEN_TILES, class Weights>
DEVICE void stream_gate(bf16* out, const bf16* x, const Affine<Weights>& gate, const Affine<Weights>& up, int num_rows, int rows, int cols,
                        int activation) {
    SHARED(float, room, WARPS * BlockSums<TOKEN_TILES>::LEN);
    BlockSums<TOKEN_TILES> block{room};
    constexpr int SHARE = BlockSums<TOKEN_TILES>::LEN > THREADS ? BlockSums<TOKEN_TILES>::LEN / THREADS : 1;
    int first_row = blockIdx.x * TILE, first_token = blockIdx.y * 8 * TOKEN_TILES;
    const WeightRows weight_rows{0, first_row, rows};
    const TokenRows tokens{x, first_token, num_rows, cols};
    auto gates = warp_sums<TOKEN_TILES>(gate.weights, weight_rows, tokens, cols);
    Sums<TOKEN_TILES> ups = {};
    if (up.is_there()) ups = warp_sums<TOKEN_TILES>(up.weights, weight_rows, tokens, cols);
    block.put(gates);
    __syncthreads();
    float own[SHARE];
    UNROLL
    for (int j = 0; j < SHARE; ++j) {
        int i = threadIdx.x + j * THREADS, row = min(first_row + i % TILE, rows - 1);
        own[j] = i < BlockSums<TOKEN_TILES>::LEN ? activate(activation, gate.with_bias(block.get(i), row)) : 0.0f;
    }
    if (up.is_there()) {
        __syncthreads();
        block.put(ups);
        __syncthreads();
    }
    UNROLL
    for (int j = 0; j < SHARE; ++j) {
        int i = threadIdx.x + j * THREADS, token = first_token + i / TILE, row = first_row + i % TILE;
        if (i >= BlockSums<TOKEN_TILES>::LEN || token >= num_rows || row >= rows) continue;
        float factor = up.is_there() ? up.with_bias(block.get(i), row) : 1.0f;
        out[size_t(token) * rows + row] = to_bf16(own[j] * factor);
    }
}

} // namespace

// The kernels: name, type of weights, their element, tokens / 8. Without the word for one block an SM the compiler would spill a few registers to
// get by with 64, for the sake of a fourth block.
#define STREAM_KERNELS(suffix, Weights, Element, TOKEN_TILES)                                                                              \
    KERNEL_BOUNDS(256, 1) stream_store_##suffix(float* out, const bf16* x, const Element* data, const void* scales, const float* bias,       \
                                             int num_rows, int rows, int cols, int adds) {                                                 \
        stream_store<TOKEN_TILES>(out, x, Weights{data, scales}, bias, num_rows, rows, cols, adds);                                        \
    }                                                                                                                                      \
    REGISTER_KERNEL(stream_store_##suffix)                                                                                                 \
    KERNEL_BOUNDS(256, 1) stream_gate_##suffix(bf16* out, const bf16* x, const Element* gate, const void* gate_scales, const float* gate_bias, \
                                            const Element* up, const void* up_scales, const float* up_bias, int num_rows, int rows,         \
                                            int cols, int activation) {                                                                    \
        const Affine<Weights> gates{{gate, gate_scales}, gate_bias}, ups{{up, up_scales}, up_bias};                                        \
        stream_gate<TOKEN_TILES>(out, x, gates, ups, num_rows, rows, cols, activation);                                                    \
    }                                                                                                                                      \
    REGISTER_KERNEL(stream_gate_##suffix)
