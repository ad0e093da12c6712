// Products of a few rows with a large matrix, out = x W^T: the weights stream past once and the tensor cores do the rest.
//
// x [num_rows, cols] bf16; W [rows, cols] of bf16, f16, f32 or int8 codes with a scale for each 32; cols a multiple of 8 (int8: of 32).
// Store: out [num_rows, rows] f32 = sum + bias, or += sum + bias. Gate: out [num_rows, rows] bf16 = activation(x G^T + g) * (x U^T + u), or without
// the second factor where `up` is null. Every bias may be null.
//
// The idea. An mma multiplies 16 rows of weights with 8 tokens, so that up to 8 tokens cost what one does. Its sum over k may take k in
// any order, as long as both operands take the same: so a lane loads 16 consecutive bytes of a row, past L1, and calls them what the
// fragment wants. No shared memory, no shuffles before the end. The warps of a block share its 16 rows and take 32 columns in turn;
// their sums are added in the order of the warps. The order of a sum does not depend on the number of tokens: a token's result is
// the same, to the bit, whoever shares the batch.
//
// Numbers that bf16 does not hold are split into bf16 terms, hi + lo for f16 and three for f32, which is exact; int8 codes are exact in
// bf16 and scaled a block of 32 columns at a time.
//
// Bytes: rows * cols * element; x comes from L2, num_rows / 16 of the weights' bytes a block. Flops: 2 * 8 * ceil(num_rows / 8) * rows * cols.
// Floor at 4.3 TB/s, bf16: down of 7B (3584 x 18944) 31.6 us, QKV of 0.5B (1152 x 896) 0.5 us and a launch.
// Versions: 1 (this), four steps of 32 columns in flight a warp; never ran on a GPU.
#include "common.cuh"

namespace {

constexpr int WARPS = 8;    // of a block
constexpr int THREADS = WARPS * int(kWarpLanes);
constexpr int TILE = 16;    // rows of weights of an mma
constexpr int STEP = 32;    // columns of two mmas: 8 elements a lane

// Eight consecutive weights of a row, as they lie in memory, and as pairs of bf16 terms.
struct Bf16Weights {
    static constexpr int TERMS = 1;
    static constexpr bool SCALED = false;
    using Raw = uint4;
    const bf16* data;
    const f16* unused;
    METHOD Raw load(size_t row, int cols, int k) const { return load_stream(data + row * cols + k); }
    METHOD static Raw zero() { return uint4{0, 0, 0, 0}; }
    METHOD static void split(const Raw& raw, uint32_t (&pairs)[TERMS][4]) {
        pairs[0][0] = raw.x; pairs[0][1] = raw.y; pairs[0][2] = raw.z; pairs[0][3] = raw.w;
    }
};

// Splits two numbers into pairs of bf16 whose sum they are.
template <int TERMS> DEVICE void split_pair(float a, float b, uint32_t (&pairs)[TERMS][4], int i) {
    UNROLL
    for (int t = 0; t < TERMS; ++t) {
        uint32_t pair = pack_bf16(a, b);
        pairs[t][i] = pair;
        a -= lo(pair);
        b -= hi(pair);
    }
}

struct F16Weights {
    static constexpr int TERMS = 2;
    static constexpr bool SCALED = false;
    using Raw = uint4;
    const f16* data;
    const f16* unused;
    METHOD Raw load(size_t row, int cols, int k) const { return load_stream(data + row * cols + k); }
    METHOD static Raw zero() { return uint4{0, 0, 0, 0}; }
    METHOD static void split(const Raw& raw, uint32_t (&pairs)[TERMS][4]) {
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
        UNROLL
        for (int i = 0; i < 4; ++i) split_pair<TERMS>(lo_f16(words[i]), hi_f16(words[i]), pairs, i);
    }
};

struct F32Weights {
    static constexpr int TERMS = 3;
    static constexpr bool SCALED = false;
    struct Raw { uint4 low, high; };
    const float* data;
    const f16* unused;
    METHOD Raw load(size_t row, int cols, int k) const {
        const float* at = data + row * cols + k;
        return Raw{load_stream(at), load_stream(at + 4)};
    }
    METHOD static Raw zero() { return Raw{uint4{0, 0, 0, 0}, uint4{0, 0, 0, 0}}; }
    METHOD static void split(const Raw& raw, uint32_t (&pairs)[TERMS][4]) {
        split_pair<TERMS>(__uint_as_float(raw.low.x), __uint_as_float(raw.low.y), pairs, 0);
        split_pair<TERMS>(__uint_as_float(raw.low.z), __uint_as_float(raw.low.w), pairs, 1);
        split_pair<TERMS>(__uint_as_float(raw.high.x), __uint_as_float(raw.high.y), pairs, 2);
        split_pair<TERMS>(__uint_as_float(raw.high.z), __uint_as_float(raw.high.w), pairs, 3);
    }
};

struct Int8Weights {
    static constexpr int TERMS = 1;
    static constexpr bool SCALED = true;
    using Raw = uint2;
    const int8_t* data;
    const f16* scales; // [rows, cols / 32]
    METHOD Raw load(size_t row, int cols, int k) const { return load_stream8(data + row * cols + k); }
    METHOD static Raw zero() { return uint2{0, 0}; }
    METHOD static float code(uint32_t word, int byte) { return float(int8_t(word >> (8 * byte))); }
    METHOD static void split(const Raw& raw, uint32_t (&pairs)[TERMS][4]) {
        pairs[0][0] = pack_bf16(code(raw.x, 0), code(raw.x, 1));
        pairs[0][1] = pack_bf16(code(raw.x, 2), code(raw.x, 3));
        pairs[0][2] = pack_bf16(code(raw.y, 0), code(raw.y, 1));
        pairs[0][3] = pack_bf16(code(raw.y, 2), code(raw.y, 3));
    }
    METHOD float scale(size_t row, int cols, int k) const { return to_float(scales[row * (cols / STEP) + k / STEP]); }
};

// Sums of 16 rows of weights for 8 * TOKEN_TILES tokens, an mma's result each.
template <int TOKEN_TILES> struct Sums { float of[TOKEN_TILES][4]; };

// Adds a step's products. `low` and `high` are the lane's weights of rows group and group + 8.
template <int TOKEN_TILES, class Weights>
DEVICE void add_step(Sums<TOKEN_TILES>& sums, const typename Weights::Raw& low, const typename Weights::Raw& high, const uint4 (&x)[TOKEN_TILES],
                     float low_scale, float high_scale) {
    uint32_t a[Weights::TERMS][4], b[Weights::TERMS][4];
    Weights::split(low, a);
    Weights::split(high, b);
    UNROLL
    for (int t = 0; t < TOKEN_TILES; ++t) {
        float scaled[4] = {0, 0, 0, 0};
        float(&sum)[4] = Weights::SCALED ? scaled : sums.of[t];
        UNROLL
        for (int term = 0; term < Weights::TERMS; ++term) {
            const uint32_t first[4] = {a[term][0], b[term][0], a[term][1], b[term][1]}, x_first[2] = {x[t].x, x[t].y};
            mma_16816(sum, first, x_first);
            const uint32_t second[4] = {a[term][2], b[term][2], a[term][3], b[term][3]}, x_second[2] = {x[t].z, x[t].w};
            mma_16816(sum, second, x_second);
        }
        if (Weights::SCALED) {
            UNROLL
            for (int i = 0; i < 4; ++i) sums.of[t][i] += scaled[i] * (i < 2 ? low_scale : high_scale);
        }
    }
}

// This warp's share of the sums of weights [first_row, first_row + 16) and tokens [first_token, first_token + 8 * TOKEN_TILES).
template <int TOKEN_TILES, class Weights>
DEVICE Sums<TOKEN_TILES> warp_sums(const Weights& weights, const bf16* x, int first_row, int rows, int first_token, int num_rows, int cols) {
    int group = lane_id() / 4, pair = lane_id() % 4;
    // Rows and tokens behind the last are computed from the last, and thrown away.
    size_t low_row = min(first_row + group, rows - 1), high_row = min(first_row + group + 8, rows - 1);
    // Steps whose weights a lane has asked for before it uses the first: as many as registers allow.
    constexpr int IN_FLIGHT = TOKEN_TILES > 2 ? 2 : 4;
    Sums<TOKEN_TILES> sums = {};
    for (int start = warp_id() * STEP; start < cols; start += WARPS * STEP * IN_FLIGHT) {
        typename Weights::Raw low[IN_FLIGHT], high[IN_FLIGHT];
        uint4 tokens[IN_FLIGHT][TOKEN_TILES];
        UNROLL
        for (int i = 0; i < IN_FLIGHT; ++i) {
            int k = start + i * WARPS * STEP + pair * 8;
            bool inside = k < cols;
            low[i] = inside ? weights.load(low_row, cols, k) : Weights::zero();
            high[i] = inside ? weights.load(high_row, cols, k) : Weights::zero();
            UNROLL
            for (int t = 0; t < TOKEN_TILES; ++t) {
                int token = min(first_token + t * 8 + group, num_rows - 1);
                tokens[i][t] = inside ? load16(x + size_t(token) * cols + k) : uint4{0, 0, 0, 0};
            }
        }
        UNROLL
        for (int i = 0; i < IN_FLIGHT; ++i) {
            int k = start + i * WARPS * STEP;
            if (k >= cols) break;
            float low_scale = 1, high_scale = 1;
            if constexpr (Weights::SCALED) {
                low_scale = weights.scale(low_row, cols, k);
                high_scale = weights.scale(high_row, cols, k);
            }
            add_step<TOKEN_TILES, Weights>(sums, low[i], high[i], tokens[i], low_scale, high_scale);
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
    block.put(warp_sums<TOKEN_TILES>(weights, x, first_row, rows, first_token, num_rows, cols));
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
    METHOD bool is_there() const { return weights.data != nullptr; }
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
    auto gates = warp_sums<TOKEN_TILES>(gate.weights, x, first_row, rows, first_token, num_rows, cols);
    Sums<TOKEN_TILES> ups = {};
    if (up.is_there()) ups = warp_sums<TOKEN_TILES>(up.weights, x, first_row, rows, first_token, num_rows, cols);
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

// The kernels: name, type of weights, their element, tokens / 8.
#define STREAM_KERNELS(suffix, Weights, Element, TOKEN_TILES)                                                                              \
    KERNEL_BOUNDS(256) stream_store_##suffix(float* out, const bf16* x, const Element* data, const f16* scales, const float* bias,       \
                                             int num_rows, int rows, int cols, int adds) {                                                 \
        stream_store<TOKEN_TILES>(out, x, Weights{data, scales}, bias, num_rows, rows, cols, adds);                                        \
    }                                                                                                                                      \
    REGISTER_KERNEL(stream_store_##suffix)                                                                                                 \
    KERNEL_BOUNDS(256) stream_gate_##suffix(bf16* out, const bf16* x, const Element* gate, const f16* gate_scales, const float* gate_bias, \
                                            const Element* up, const f16* up_scales, const float* up_bias, int num_rows, int rows,         \
                                            int cols, int activation) {                                                                    \
        const Affine<Weights> gates{{gate, gate_scales}, gate_bias}, ups{{up, up_scales}, up_bias};                                        \
        stream_gate<TOKEN_TILES>(out, x, gates, ups, num_rows, rows, cols, activation);                                                    \
    }                                                                                                                                      \
    REGISTER_KERNEL(stream_gate_##suffix)

STREAM_KERNELS(bf16_8, Bf16Weights, bf16, 1)
STREAM_KERNELS(bf16_16, Bf16Weights, bf16, 2)
STREAM_KERNELS(bf16_64, Bf16Weights, bf16, 8)
STREAM_KERNELS(f16_8, F16Weights, f16, 1)
STREAM_KERNELS(f16_64, F16Weights, f16, 8)
STREAM_KERNELS(f32_8, F32Weights, float, 1)
STREAM_KERNELS(f32_64, F32Weights, float, 8)
STREAM_KERNELS(int8_8, Int8Weights, int8_t, 1)
STREAM_KERNELS(int8_16, Int8Weights, int8_t, 2)
STREAM_KERNELS(int8_64, Int8Weights, int8_t, 8)
