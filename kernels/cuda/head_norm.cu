// Norms each head's query and key in place, by its root mean square. One block a token, a warp a head.
//
// qkv [num_tokens, (num_heads + 2 num_kv_heads) * head_dim] f32; weights [head_dim] f32.
// Bytes: num_tokens * 8 * (q + kv) with q, kv the widths. Floor: a launch.
// Versions: 1 (this), a launch of its own before rope_cache.cu, by an estimate a microsecond a layer in a graph; never ran on a GPU.
#include "common.cuh"

KERNEL head_norm(float* qkv, const float* query_weight, const float* key_weight, int num_heads, int num_kv_heads, int head_dim, float eps) {
    float* row = qkv + size_t(blockIdx.x) * (num_heads + 2 * num_kv_heads) * head_dim;
    for (int head = warp_id(); head < num_heads + num_kv_heads; head += blockDim.x / kWarpLanes) {
        float* values = row + size_t(head) * head_dim;
        const float* weight = head < num_heads ? query_weight : key_weight;
        float squares = 0;
        for (int i = lane_id(); i < head_dim; i += kWarpLanes) squares += values[i] * values[i];
        float scale = rsqrtf(warp_sum(squares) / float(head_dim) + eps);
        for (int i = lane_id(); i < head_dim; i += kWarpLanes) values[i] = values[i] * scale * weight[i];
    }
}
REGISTER_KERNEL(head_norm)
