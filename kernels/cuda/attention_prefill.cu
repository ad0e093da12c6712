// Paged causal attention for many new tokens of a sequence: a block takes 64 rows of queries, a warp 16 of them over all they see.
//
// qkv [num_tokens, qkv_width] f32, queries rotated; cache as in rope_cache.cu; seqs [num_seqs]: which sequences; out [num_tokens, num_heads * head_dim] bf16, for a
// product to read. grid (ceil(most rows of any / 64), num_seqs,
// num_kv_heads), 128 threads: the rows lie along x, which alone may pass 65535.
// Flops: 4 * head_dim * num_heads a pair of a token and one that it sees. Bytes: keys and values once a block, from L2 after the first.
// Floor, 2048 tokens of 7B (28 heads of 128): 30 GFLOP a layer, 38 us at 790 TFLOP/s; FlashAttention-2 reaches about a third of that.
// A row's sums run over steps of 32 tokens from a multiple of 32 on: they do not depend on the chunk that the row came in, if it is too
// long for attention_decode.cu.
// Versions: 1, keys and values straight from the cache to registers; 2, loads of values that stand behind no branch, 16 under way at a
// head_dim of 128: expected to wait for L2 once a step instead of sixteen times; 3 (this), queries 16 bytes a lane. None was ever timed.
#include "attention.cuh"

namespace {

constexpr int WARPS = 4;

template <int HEAD_DIM>
DEVICE void prefill(bf16* out, const float* qkv, const f16* cache, const uint32_t* seqs, const StepView& step, float scale) {
    using Q = Queries<HEAD_DIM>;
    SHARED(uint4, room, WARPS * Q::LEN16);
    f16* queries = reinterpret_cast<f16*>(room + warp_id() * Q::LEN16);
    int seq = int(seqs[blockIdx.y]), kv_head = blockIdx.z, first_row = (blockIdx.x * WARPS + warp_id()) * ROWS;
    int num_rows = step.num_queries(seq) * step.group();
    if (first_row >= num_rows) return;
    RowSource source = step.rows(qkv, seq, kv_head, HEAD_DIM);
    load_queries<HEAD_DIM, 1>(queries, source, first_row, num_rows, 0);
    __syncwarp();

    HeadCache head = step.cache(cache, seq, kv_head, HEAD_DIM);
    RowPair rows = step.row_pair(seq, first_row);
    int last_row = min(first_row + ROWS, num_rows) - 1;
    int begin = step.first_visible(step.position(seq, first_row)) / TOKENS * TOKENS, end = step.position(seq, last_row) + 1;
    WarpAttention<HEAD_DIM> attention;
    attention.clear();
    for (int start = begin; start < end; start += TOKENS) attention.step(queries, head, rows, start, scale * LOG2E);
    attention.finish();

    UNROLL
    for (int half = 0; half < 2; ++half) {
        int r = first_row + lane_id() / 4 + 8 * half;
        if (r >= num_rows) continue;
        float factor = 1.0f / attention.sum[half];
        bf16* to = out + size_t(source.first_token + r / source.group) * step.num_heads * HEAD_DIM + size_t(source.first_head + r % source.group) * HEAD_DIM;
        UNROLL
        for (int d = 0; d < HEAD_DIM / 8; ++d) {
            to[d * 8 + lane_id() % 4 * 2] = to_bf16(attention.out[d][half * 2] * factor);
            to[d * 8 + lane_id() % 4 * 2 + 1] = to_bf16(attention.out[d][half * 2 + 1] * factor);
        }
    }
}

} // namespace

#define PREFILL_KERNEL(HEAD_DIM)                                                                                                           \
    KERNEL_BOUNDS(128, MIN_BLOCKS(HEAD_DIM)) attention_prefill_##HEAD_DIM(bf16* out, const float* qkv, const f16* cache, const uint32_t* seqs,               \
                                                          const uint32_t* cu_seqlens, const uint32_t* context_lens,                       \
                                                          const uint32_t* block_tables, int table_width, int num_heads, int num_kv_heads,  \
                                                          int block_size, int window, float scale) {                                       \
        StepView step{cu_seqlens, context_lens, block_tables, table_width, num_heads, num_kv_heads, block_size, window};                   \
        prefill<HEAD_DIM>(out, qkv, cache, seqs, step, scale);                                                                            \
    }                                                                                                                                      \
    REGISTER_KERNEL(attention_prefill_##HEAD_DIM)

PREFILL_KERNEL(16)
PREFILL_KERNEL(64)
PREFILL_KERNEL(80)
PREFILL_KERNEL(128)
PREFILL_KERNEL(256)
