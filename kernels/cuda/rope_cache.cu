// Rotates the queries in place, and writes rotated keys and plain values into their slots. A thread a pair: grid (num_tokens, ceil(pairs of a
// token / threads)).
//
// qkv [num_tokens, (num_heads + 2 num_kv_heads) * head_dim] f32; cos, sin [num_positions, head_dim / 2] f32; positions, slots
// [num_tokens]; cache [num_blocks, num_kv_heads, 2, block_size * head_dim] f16: of each head first the keys [block_size, head_dim],
// then the values turned, [head_dim, block_size], so that attention reads eight tokens of a dimension at once.
// A slot of 0xffffffff is a padding row of a graph's bucket and writes nothing.
// Bytes: num_tokens * (8 q + 10 kv) with q, kv the widths. Floor: a launch.
// Versions: 1, a block a token, whose threads took several pairs one after the other; 2 (this), a thread one pair: for a token of 7B one wait for
// memory was expected instead of five. Never timed.
#include "common.cuh"

constexpr uint32_t NO_SLOT = 0xffffffffu;

KERNEL rope_cache(float* qkv, f16* cache, const float* cos, const float* sin, const uint32_t* positions, const uint32_t* slots,
                  int num_heads, int num_kv_heads, int head_dim, int block_size) {
    uint32_t slot = slots[blockIdx.x];
    if (slot == NO_SLOT) return;
    int half = head_dim / 2, width = (num_heads + 2 * num_kv_heads) * head_dim;
    float* row = qkv + size_t(blockIdx.x) * width;
    const float* c = cos + size_t(positions[blockIdx.x]) * half;
    const float* s = sin + size_t(positions[blockIdx.x]) * half;
    int offset = int(slot % uint32_t(block_size));
    f16* block = cache + size_t(slot / uint32_t(block_size)) * num_kv_heads * 2 * block_size * head_dim;
    // [num_heads + num_kv_heads + num_kv_heads, half] pairs
    int i = blockIdx.y * blockDim.x + threadIdx.x, head = i / half, d = i % half;
    if (head >= num_heads + 2 * num_kv_heads) return;
    float a = row[head * head_dim + d], b = row[head * head_dim + d + half];
    if (head >= num_heads + num_kv_heads) {
        f16* values = block + size_t((head - num_heads - num_kv_heads) * 2 + 1) * block_size * head_dim;
        values[size_t(d) * block_size + offset] = to_f16(a);
        values[size_t(d + half) * block_size + offset] = to_f16(b);
        return;
    }
    float low = a * c[d] - b * s[d], high = b * c[d] + a * s[d];
    if (head < num_heads) {
        row[head * head_dim + d] = low;
        row[head * head_dim + d + half] = high;
    } else {
        f16* key = block + size_t((head - num_heads) * 2) * block_size * head_dim + size_t(offset) * head_dim;
        key[d] = to_f16(low);
        key[d + half] = to_f16(high);
    }
}
REGISTER_KERNEL(rope_cache)
