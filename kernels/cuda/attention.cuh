// Attention of one warp: 16 rows of queries over a run of a sequence's keys and values, with an online softmax.
//
// A row is a query head of a token: the heads that share a key/value head are taken together, row r of a sequence being its new token
// r / group with head r % group of the group. Sums of scores and of values are mmas in f16 with f32 sums.
//
// The idea. As in stream_matmul.cu, a sum may take its terms in any order: a lane reads 16 consecutive bytes of a key, and calls them
// what the fragment wants. Column n of score tile j is token 8 (n / 2) + 2 j + n % 2 of a step of 32, so that a lane ends up with the
// scores of eight consecutive tokens, and the values of those eight tokens are one load of the turned values. No key or value goes
// through shared memory, and none is shuffled.
#pragma once
#include "common.cuh"

// Blocks of 128 threads that share a multiprocessor's registers: told to the compiler, which else takes 128 registers a thread and
// spills some. A head of 256 takes what a thread can have, 255.
#define MIN_BLOCKS(head_dim) ((head_dim) > 128 ? 1 : 2)

namespace {

constexpr int ROWS = 16;      // queries of a warp
constexpr int TOKENS = 32;    // keys of a step
constexpr float LOG2E = 1.44269504088896340736f;

// The paged cache of a layer, one key/value head: see rope_cache.cu.
struct HeadCache {
    const f16* head;         // of block 0
    const uint32_t* table;   // the sequence's blocks
    size_t block_stride;     // elements
    int block_size;          // tokens, a multiple of 8
    int context_len;         // tokens written

    // Where the block with this token begins: tokens of a group of 8 share it.
    METHOD const f16* block(int token) const { return head + size_t(table[token / block_size]) * block_stride; }
};

// What a warp's rows see, two rows a lane: group and group + 8.
struct RowPair {
    int position[2];  // -1: no row
    int first[2];     // first position that it sees

    METHOD bool sees(int row, int token) const { return token <= position[row] && token >= first[row]; }
};

// Queries of a warp in shared memory, f16, rows apart by 16 bytes more than they are long, so that eight rows lie in eight banks.
template <int HEAD_DIM> struct Queries {
    static constexpr int WIDTH = (HEAD_DIM + 31) / 32 * 32; // padded with zeros
    static constexpr int STRIDE = WIDTH + 8;
    static constexpr int LEN16 = ROWS * STRIDE / 8;         // in 16 bytes
};

// The rows of a sequence that an item computes, for one key/value head.
struct RowSource {
    const float* qkv;      // [num_tokens, qkv_width], queries rotated
    int qkv_width;
    int first_token;       // of the sequence in the step
    int first_head;        // of the group
    int group;             // query heads a key/value head

    METHOD const float* row(int r, int head_dim) const {
        return qkv + size_t(first_token + r / group) * qkv_width + size_t(first_head + r % group) * head_dim;
    }
};

// Brings rows [first_row, first_row + 16) to shared memory: of WARPS warps, warp `warp` takes every WARPS-th. A row is read by the lanes of a
// warp, 16 bytes each; rows behind the last are zeros.
template <int HEAD_DIM, int WARPS> DEVICE void load_queries(f16* shared, const RowSource& source, int first_row, int num_rows, int warp) {
    using Q = Queries<HEAD_DIM>;
    constexpr int OWN_ROWS = ROWS / WARPS;
    UNROLL
    for (int begin = 0; begin < Q::WIDTH; begin += 4 * int(kWarpLanes)) {
        int d = begin + lane_id() * 4;
        float4 held[OWN_ROWS];
        UNROLL
        for (int i = 0; i < OWN_ROWS; ++i) {
            int r = first_row + warp + i * WARPS;
            held[i] = float4{0, 0, 0, 0};
            if (r < num_rows && d < HEAD_DIM) held[i] = *reinterpret_cast<const float4*>(source.row(r, HEAD_DIM) + d);
        }
        UNROLL
        for (int i = 0; i < OWN_ROWS; ++i) {
            f16* to = shared + (warp + i * WARPS) * Q::STRIDE + d;
            if (d < Q::WIDTH) *reinterpret_cast<uint2*>(to) = uint2{pack_f16(held[i].x, held[i].y), pack_f16(held[i].z, held[i].w)};
        }
    }
}

// Zeroes the halves of eight f16 values whose tokens are not written: they may be NaN, and 0 * NaN is one.
DEVICE uint4 written_only(uint4 values, int num_written) {
    uint32_t words[4] = {values.x, values.y, values.z, values.w};
    UNROLL
    for (int i = 0; i < 4; ++i) {
        if (2 * i >= num_written) words[i] = 0;
        else if (2 * i + 1 >= num_written) words[i] &= 0xffffu;
    }
    return uint4{words[0], words[1], words[2], words[3]};
}

template <int HEAD_DIM> struct WarpAttention {
    static constexpr int DIM_TILES = HEAD_DIM / 8;
    // Loads of values that a lane asks for before it uses the first: as many as registers allow.
    static constexpr int VALUES_IN_FLIGHT = DIM_TILES % 8 == 0 ? 8 : DIM_TILES % 5 == 0 ? 5 : DIM_TILES;
    float max[2], sum[2];        // of rows group and group + 8; max in units of log2
    float out[DIM_TILES][4];     // not yet divided by the sum

    METHOD void clear() {
        max[0] = max[1] = -INFINITY;
        sum[0] = sum[1] = 0;
        UNROLL
        for (int d = 0; d < DIM_TILES; ++d) out[d][0] = out[d][1] = out[d][2] = out[d][3] = 0;
    }

    // Adds the tokens [start, start + 32); `start` is a multiple of 32. `scale` is that of the scores, times log2(e).
    METHOD void step(const f16* queries, const HeadCache& cache, const RowPair& rows, int start, float scale) {
        float scores[4][4] = {};
        add_scores(scores, queries, cache, start);
        float weights[4][4];
        UNROLL
        for (int half = 0; half < 2; ++half) soften(half, scores, weights, rows, start, scale);
        add_values(weights, cache, start);
    }

    METHOD void add_scores(float (&scores)[4][4], const f16* queries, const HeadCache& cache, int start) const {
        using Q = Queries<HEAD_DIM>;
        int group = lane_id() / 4, pair = lane_id() % 4;
        int first = start + 8 * (group / 2);
        const f16* keys = first < cache.context_len ? cache.block(first) + size_t(first % cache.block_size) * HEAD_DIM : nullptr;
        UNROLL
        for (int c = 0; c < Q::WIDTH / 32; ++c) {
            int d = c * 32 + pair * 8;
            uint4 low = load16(queries + group * Q::STRIDE + d), high = load16(queries + (group + 8) * Q::STRIDE + d);
            UNROLL
            for (int j = 0; j < 4; ++j) {
                int token = 2 * j + group % 2;
                bool inside = first + token < cache.context_len && d < HEAD_DIM;
                uint4 key = inside ? load16(keys + size_t(token) * HEAD_DIM + d) : uint4{0, 0, 0, 0};
                const uint32_t a[4] = {low.x, high.x, low.y, high.y}, b[2] = {key.x, key.y};
                mma_16816_f16(scores[j], a, b);
                const uint32_t a2[4] = {low.z, high.z, low.w, high.w}, b2[2] = {key.z, key.w};
                mma_16816_f16(scores[j], a2, b2);
            }
        }
    }

    // Turns the scores of row group + 8 * half into weights, and what was summed before to the new maximum.
    METHOD void soften(int half, const float (&scores)[4][4], float (&weights)[4][4], const RowPair& rows, int start, float scale) {
        int pair = lane_id() % 4;
        float best = max[half];
        UNROLL
        for (int j = 0; j < 4; ++j) {
            UNROLL
            for (int i = 0; i < 2; ++i) {
                bool seen = rows.sees(half, start + 8 * pair + 2 * j + i);
                weights[j][half * 2 + i] = seen ? scores[j][half * 2 + i] * scale : -INFINITY;
                best = fmaxf(best, weights[j][half * 2 + i]);
            }
        }
        best = fmaxf(best, __shfl_xor_sync(kAllLanes, best, 1));
        best = fmaxf(best, __shfl_xor_sync(kAllLanes, best, 2));
        float base = best == -INFINITY ? 0.0f : best;
        float correction = exp2f(max[half] - base);
        max[half] = best;
        sum[half] *= correction;
        UNROLL
        for (int d = 0; d < DIM_TILES; ++d) {
            out[d][half * 2] *= correction;
            out[d][half * 2 + 1] *= correction;
        }
        UNROLL
        for (int j = 0; j < 4; ++j) {
            UNROLL
            for (int i = 0; i < 2; ++i) {
                weights[j][half * 2 + i] = exp2f(weights[j][half * 2 + i] - base);
                sum[half] += weights[j][half * 2 + i];
            }
        }
    }

    METHOD void add_values(const float (&weights)[4][4], const HeadCache& cache, int start) {
        int first = start + 8 * (lane_id() % 4), num_written = cache.context_len - first;
        uint32_t a[2][4];
        UNROLL
        for (int s = 0; s < 2; ++s) {
            a[s][0] = pack_f16(weights[2 * s][0], weights[2 * s][1]);
            a[s][1] = pack_f16(weights[2 * s][2], weights[2 * s][3]);
            a[s][2] = pack_f16(weights[2 * s + 1][0], weights[2 * s + 1][1]);
            a[s][3] = pack_f16(weights[2 * s + 1][2], weights[2 * s + 1][3]);
        }
        if constexpr (HEAD_DIM > 128) {
            // No registers for several loads.
            const f16* values = num_written > 0 ? values_of(cache, first) : nullptr;
            UNROLL
            for (int d = 0; d < DIM_TILES; ++d) {
                uint4 value = uint4{0, 0, 0, 0};
                if (num_written > 0) value = written_only(load16(values + size_t(d * 8) * cache.block_size), num_written);
                add_value(d, a, value);
            }
        } else {
            // A lane whose tokens are not written reads those of token 0, which always is: no load stands behind a branch, so that several
            // are under way at once.
            const f16* values = values_of(cache, num_written > 0 ? first : 0);
            UNROLL
            for (int begin = 0; begin < DIM_TILES; begin += VALUES_IN_FLIGHT) {
                uint4 raw[VALUES_IN_FLIGHT];
                UNROLL
                for (int i = 0; i < VALUES_IN_FLIGHT; ++i) raw[i] = load16(values + size_t((begin + i) * 8) * cache.block_size);
                UNROLL
                for (int i = 0; i < VALUES_IN_FLIGHT; ++i) add_value(begin + i, a, written_only(raw[i], num_written));
            }
        }
    }

    // The lane's row of the first eight dimensions' values, from this token on.
    METHOD static const f16* values_of(const HeadCache& cache, int token) {
        return cache.block(token) + size_t(HEAD_DIM + lane_id() / 4) * cache.block_size + token % cache.block_size;
    }

    METHOD void add_value(int d, const uint32_t (&a)[2][4], const uint4& value) {
        const uint32_t b[2] = {value.x, value.y}, b2[2] = {value.z, value.w};
        mma_16816_f16(out[d], a[0], b);
        mma_16816_f16(out[d], a[1], b2);
    }

    // Each lane has summed its own eight tokens of a step: brings the four lanes of a row together.
    METHOD void finish() {
        UNROLL
        for (int half = 0; half < 2; ++half) {
            sum[half] += __shfl_xor_sync(kAllLanes, sum[half], 1);
            sum[half] += __shfl_xor_sync(kAllLanes, sum[half], 2);
        }
    }
};

// What an attention kernel is told of the step and the layer, the same for all of its blocks.
struct StepView {
    const uint32_t* cu_seqlens;    // [num_seqs + 1]
    const uint32_t* context_lens;  // [num_seqs]
    const uint32_t* block_tables;  // [num_seqs, table_width]
    int table_width, num_heads, num_kv_heads, block_size;
    int window;                    // 0: sees all

    METHOD int group() const { return num_heads / num_kv_heads; }
    METHOD int first_visible(int position) const { return window && position + 1 > window ? position + 1 - window : 0; }
    METHOD int num_queries(int seq) const { return int(cu_seqlens[seq + 1] - cu_seqlens[seq]); }
    METHOD int position(int seq, int r) const { return int(context_lens[seq]) - num_queries(seq) + r / group(); }

    METHOD HeadCache cache(const f16* cache, int seq, int kv_head, int head_dim) const {
        size_t head = size_t(2) * block_size * head_dim;
        return {cache + kv_head * head, block_tables + size_t(seq) * table_width, num_kv_heads * head, block_size, int(context_lens[seq])};
    }
    METHOD RowSource rows(const float* qkv, int seq, int kv_head, int head_dim) const {
        return {qkv, (num_heads + 2 * num_kv_heads) * head_dim, int(cu_seqlens[seq]), kv_head * group(), group()};
    }
    // What the lane's two rows of [first_row, first_row + 16) see.
    METHOD RowPair row_pair(int seq, int first_row) const {
        RowPair pair;
        UNROLL
        for (int half = 0; half < 2; ++half) {
            int r = first_row + lane_id() / 4 + 8 * half;
            pair.position[half] = r < num_queries(seq) * group() ? position(seq, r) : -1;
            pair.first[half] = first_visible(pair.position[half]);
        }
        return pair;
    }
};

} // namespace
