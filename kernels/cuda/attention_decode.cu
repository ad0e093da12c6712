// Paged attention for one or a few new tokens of a sequence: its keys and values are split over blocks, and within a block over warps.
//
// qkv [num_tokens, qkv_width] f32, queries rotated; cache as in rope_cache.cu; seqs [num_seqs]: which sequences, each of
// num_tiles items of 16 rows: query heads of the group, token by token;
// partials [num_items, num_kv_heads, num_splits, partial_rows, head_dim + 2] f32: sums of values, maximum and sum of weights; tickets
// [num_items, num_kv_heads], 0 before and after; out [num_tokens, num_heads * head_dim] bf16, for a product to read.
// grid (num_items, num_kv_heads, num_splits), 128 threads. Split s takes the positions [s, s + 1) * split_len; blocks without any leave at once. The
// block that comes last adds the splits in their order, so that a result does not depend on who came when.
// Bytes: the keys and values of the sequences once, 4 * head_dim * num_kv_heads a token. Floor: 4096 tokens of 7B 8.4 MB a layer, 2 us
// at 4.3 TB/s; latency makes it 4 to 7 us.
// Where the splits lie depends on the positions only: a token's result is the same, to the bit, whoever shares the batch.
// A row that sees nothing of a split leaves a sum of 0 there: tokens of one chunk end in different splits.
// Versions: 1, for one token; 2, for a few; 3, loads of values that stand behind no branch: 16 under way at a head_dim of 128 instead of
// one, expected where a context is read once and nothing else hides the wait; 4 (this), queries by all warps and 16 bytes a lane, the warps'
// results in other banks, a split's factors computed once: expected to shorten the start and the end, which a short context mostly is. None
// was ever timed.
#include "attention.cuh"

namespace {

constexpr int WARPS = 4, THREADS = WARPS * int(kWarpLanes);
constexpr int FACTORS = THREADS / ROWS; // splits whose factors lie in shared memory at once: a thread a row's

// What the blocks of an item leave for the one that comes last.
struct Splits {
    float* partials;
    unsigned* tickets;
    int num_splits, split_len, partial_rows;

    METHOD float* partial(int head_index, int split, int row, int head_dim) const {
        return partials + ((size_t(head_index) * num_splits + split) * partial_rows + row) * (head_dim + 2);
    }
};

// Rows of results in shared memory lie 32 bytes further apart than they are long: pairs of four rows then take all banks.
template <int HEAD_DIM> constexpr int MERGED_STRIDE = HEAD_DIM + 8;

// Adds the four warps' results into `merged` [16, MERGED_STRIDE], and gives each row's maximum and sum in `totals` [16, 2].
template <int HEAD_DIM> DEVICE void merge_warps(float* merged, float* totals, float* numbers, const WarpAttention<HEAD_DIM>& attention) {
    int group = lane_id() / 4, pair = lane_id() % 4;
    UNROLL
    for (int half = 0; half < 2; ++half) {
        if (pair != 0) continue;
        numbers[(warp_id() * ROWS + group + 8 * half) * 2] = attention.max[half];
        numbers[(warp_id() * ROWS + group + 8 * half) * 2 + 1] = attention.sum[half];
    }
    __syncthreads();
    float factor[2];
    UNROLL
    for (int half = 0; half < 2; ++half) {
        int row = group + 8 * half;
        float best = -INFINITY, sum = 0;
        for (int w = 0; w < WARPS; ++w) best = fmaxf(best, numbers[(w * ROWS + row) * 2]);
        float base = best == -INFINITY ? 0.0f : best;
        for (int w = 0; w < WARPS; ++w) sum += numbers[(w * ROWS + row) * 2 + 1] * exp2f(numbers[(w * ROWS + row) * 2] - base);
        factor[half] = exp2f(attention.max[half] - base);
        if (warp_id() == 0 && pair == 0) {
            totals[row * 2] = best;
            totals[row * 2 + 1] = sum;
        }
    }
    for (int w = 0; w < WARPS; ++w) {
        if (int(warp_id()) == w) {
            UNROLL
            for (int d = 0; d < HEAD_DIM / 8; ++d) {
                UNROLL
                for (int half = 0; half < 2; ++half) {
                    float2* to = reinterpret_cast<float2*>(merged + (group + 8 * half) * MERGED_STRIDE<HEAD_DIM> + d * 8 + pair * 2);
                    float2 sum = w ? *to : float2{0, 0};
                    sum.x += attention.out[d][half * 2] * factor[half];
                    sum.y += attention.out[d][half * 2 + 1] * factor[half];
                    *to = sum;
                }
            }
        }
        __syncthreads();
    }
}

// Returns, on every thread, whether this block came last of `num_live`.
DEVICE bool came_last(unsigned* ticket, int num_live) {
    SHARED(unsigned, last, 1);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last[0] = atomicAdd(ticket, 1u) == unsigned(num_live - 1);
    __syncthreads();
    __threadfence();
    return last[0];
}

// What an item's splits left, behind one pointer: [num, partial_rows, HEAD_DIM + 2], of which the first `own_rows` rows count.
struct LiveSplits {
    const float* first;
    int num, partial_rows, own_rows;
};

// Adds the splits in their order, a thread's elements as in `decode`; sums of weights go to `totals` [16, 2]. A thread brings the factor of a row
// and one of eight splits to `factors` [8, 16], and its sum of weights, so that each is read and computed once.
template <int HEAD_DIM> DEVICE void add_splits(float (&values)[HEAD_DIM / 8], float* totals, float2* factors, const LiveSplits& splits) {
    int row = threadIdx.x / FACTORS, lane = threadIdx.x % FACTORS, row_len = HEAD_DIM + 2, split_len = splits.partial_rows * row_len;
    // Rows that there are not are computed from the last, and thrown away.
    const float* numbers = splits.first + min(row, splits.own_rows - 1) * row_len + HEAD_DIM;
    float best = -INFINITY, total = 0;
    for (int s = lane; s < splits.num; s += FACTORS) best = fmaxf(best, numbers[size_t(s) * split_len]);
    UNROLL
    for (int d = 1; d < FACTORS; d *= 2) best = fmaxf(best, __shfl_xor_sync(kAllLanes, best, d));
    float base = best == -INFINITY ? 0.0f : best;
    UNROLL
    for (int j = 0; j < HEAD_DIM / 8; ++j) values[j] = 0;
    for (int begin = 0; begin < splits.num; begin += FACTORS) {
        int num = min(FACTORS, splits.num - begin);
        const float* batch = splits.first + size_t(begin) * split_len;
        if (lane < num) {
            const float* own = numbers + size_t(begin + lane) * split_len;
            factors[lane * ROWS + row] = float2{exp2f(own[0] - base), own[1]};
        }
        __syncthreads();
        for (int s = 0; s < num; ++s) {
            float2 factor = factors[s * ROWS + row];
            total += factor.y * factor.x;
            UNROLL
            for (int j = 0; j < HEAD_DIM / 8; ++j) {
                int i = threadIdx.x + j * THREADS, r = i / HEAD_DIM;
                if (r < splits.own_rows) values[j] += batch[s * split_len + r * row_len + i % HEAD_DIM] * factors[s * ROWS + r].x;
            }
        }
        __syncthreads();
    }
    if (lane == 0) totals[row * 2 + 1] = total;
    __syncthreads();
}

template <int HEAD_DIM>
DEVICE void decode(bf16* out, const float* qkv, const f16* cache, const uint32_t* seqs, int num_tiles, const StepView& step, const Splits& splits,
                   float scale) {
    using Q = Queries<HEAD_DIM>;
    SHARED(uint4, room, Q::LEN16);
    SHARED(float, numbers, WARPS * ROWS * 2);
    SHARED(float, totals, ROWS * 2);
    SHARED(float2, room_of_rows, ROWS * MERGED_STRIDE<HEAD_DIM> / 2);
    SHARED(float2, factors, FACTORS * ROWS);
    float* merged = reinterpret_cast<float*>(room_of_rows);
    f16* queries = reinterpret_cast<f16*>(room);
    int seq = int(seqs[blockIdx.x / num_tiles]), kv_head = blockIdx.y, split = blockIdx.z;
    int first_row = int(blockIdx.x) % num_tiles * ROWS;
    int num_rows = step.num_queries(seq) * step.group();
    if (step.context_lens[seq] == 0 || first_row >= num_rows) return;
    int own_rows = min(ROWS, num_rows - first_row);
    int begin = step.first_visible(step.position(seq, first_row)), end = step.position(seq, first_row + own_rows - 1) + 1;
    int first_split = begin / splits.split_len, num_live = (end - 1) / splits.split_len - first_split + 1;
    if (split < first_split || split >= first_split + num_live) return;

    RowSource source = step.rows(qkv, seq, kv_head, HEAD_DIM);
    load_queries<HEAD_DIM, WARPS>(queries, source, first_row, num_rows, warp_id());
    __syncthreads();
    HeadCache head = step.cache(cache, seq, kv_head, HEAD_DIM);
    RowPair rows = step.row_pair(seq, first_row);
    int from = max(begin / TOKENS * TOKENS, split * splits.split_len), to = min(end, (split + 1) * splits.split_len);
    WarpAttention<HEAD_DIM> attention;
    attention.clear();
    // A step belongs to a warp by its position, not by where the split or the window begins.
    for (int start = from; start < to; start += TOKENS)
        if (start / TOKENS % WARPS == int(warp_id())) attention.step(queries, head, rows, start, scale * LOG2E);
    attention.finish();
    merge_warps<HEAD_DIM>(merged, totals, numbers, attention);

    int head_index = int(blockIdx.x * gridDim.y) + kv_head;
    // Element j of a thread's is number threadIdx.x + j * THREADS of [16, HEAD_DIM].
    float values[HEAD_DIM / 8];
    UNROLL
    for (int j = 0; j < HEAD_DIM / 8; ++j) {
        int i = threadIdx.x + j * THREADS;
        values[j] = merged[i / HEAD_DIM * MERGED_STRIDE<HEAD_DIM> + i % HEAD_DIM];
    }
    if (num_live > 1) {
        for (int i = threadIdx.x; i < own_rows * HEAD_DIM; i += THREADS) {
            float* partial = splits.partial(head_index, split, i / HEAD_DIM, HEAD_DIM);
            partial[i % HEAD_DIM] = merged[i / HEAD_DIM * MERGED_STRIDE<HEAD_DIM> + i % HEAD_DIM];
            if (i % HEAD_DIM < 2) partial[HEAD_DIM + i % HEAD_DIM] = totals[i / HEAD_DIM * 2 + i % HEAD_DIM];
        }
        if (!came_last(splits.tickets + head_index, num_live)) return;
        if (threadIdx.x == 0) splits.tickets[head_index] = 0;
        const float* first = splits.partial(head_index, first_split, 0, HEAD_DIM);
        add_splits<HEAD_DIM>(values, totals, factors, LiveSplits{first, num_live, splits.partial_rows, own_rows});
    }
    UNROLL
    for (int j = 0; j < HEAD_DIM / 8; ++j) {
        int i = threadIdx.x + j * THREADS, row = i / HEAD_DIM, d = i % HEAD_DIM, r = first_row + row;
        if (row >= own_rows) continue;
        out[size_t(source.first_token + r / source.group) * step.num_heads * HEAD_DIM + size_t(source.first_head + r % source.group) * HEAD_DIM + d] =
            to_bf16(values[j] / totals[row * 2 + 1]);
    }
}

} // namespace

#define DECODE_KERNEL(HEAD_DIM)                                                                                                            \
    KERNEL_BOUNDS(128, MIN_BLOCKS(HEAD_DIM)) attention_decode_##HEAD_DIM(bf16* out, const float* qkv, const f16* cache, const uint32_t* seqs,                \
                                                         const uint32_t* cu_seqlens, const uint32_t* context_lens,                        \
                                                         const uint32_t* block_tables, int table_width, int num_heads, int num_kv_heads,   \
                                                         int block_size, int window, float scale, float* partials, unsigned* tickets,      \
                                                         int num_splits, int split_len, int partial_rows, int num_tiles) {                 \
        StepView step{cu_seqlens, context_lens, block_tables, table_width, num_heads, num_kv_heads, block_size, window};                   \
        decode<HEAD_DIM>(out, qkv, cache, seqs, num_tiles, step, Splits{partials, tickets, num_splits, split_len, partial_rows}, scale);  \
    }                                                                                                                                      \
    REGISTER_KERNEL(attention_decode_##HEAD_DIM)

DECODE_KERNEL(16)
DECODE_KERNEL(64)
DECODE_KERNEL(80)
DECODE_KERNEL(128)
DECODE_KERNEL(256)
