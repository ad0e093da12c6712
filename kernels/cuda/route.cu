// What surrounds the experts' products of a mixture: which experts a token goes through, which tokens an expert has, and the weighted sum.
//
// A pair is a token and one of its experts: pair i is token i / per_token, its experts the likeliest first. logits [num_tokens, num_experts] f32;
// experts and weights [num_tokens, per_token] u32 and f32; pairs [num_tokens * per_token] u32, expert by expert and ascending within one;
// offsets [num_experts + 1] u32, where each expert's begin. Rows that pad a step have no slot, and no expert: nothing is read or
// written for them. The host knows none of it, and the launches depend on sizes only, so that a graph holds them.
//
// Bytes: logits once, experts twice a warp of experts, from L2; the sum reads per_token rows of y [num_tokens * per_token, cols] f32 and updates one.
// Floor, 128 experts of which 8: a launch each for few tokens; 2048 tokens of 2048 columns 1.0, 3 and 39 us at 4.3 TB/s (the second by an
// estimate of 1024 reads a warp, a few in flight).
// Versions: 1 (this); never ran on a GPU. Choice and grouping could be one launch where all tokens fit a block.
#include "common.cuh"

namespace {

constexpr uint32_t NO_EXPERT = 0xffffffffu, NO_SLOT = 0xffffffffu;

// In the order of the logits, then from the last id to the first; what is no number is as the least.
DEVICE uint64_t key_of(float logit, uint32_t id) {
    uint32_t bits = __float_as_uint(logit == logit ? logit + 0.0f : -INFINITY);
    return uint64_t(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | (0xffffffffu - id);
}

// The greatest key below `limit`, in every lane: 0 where there is none.
DEVICE uint64_t best_below(const float* logits, int num_experts, uint64_t limit) {
    uint64_t best = 0;
    for (uint32_t id = lane_id(); id < uint32_t(num_experts); id += kWarpLanes) {
        uint64_t key = key_of(logits[id], id);
        if (key < limit) best = max(best, key);
    }
    for (int d = 16; d; d >>= 1) best = max(best, __shfl_xor_sync(kAllLanes, best, d));
    return best;
}

DEVICE uint32_t id_of(uint64_t key) { return 0xffffffffu - uint32_t(key); }

} // namespace

// A warp a token.
KERNEL_BOUNDS(32) route_tokens(uint32_t* experts, float* weights, const float* logits, const uint32_t* slots, int num_experts, int per_token, int is_normed) {
    size_t first = size_t(blockIdx.x) * per_token;
    if (slots[blockIdx.x] == NO_SLOT) {
        for (int j = lane_id(); j < per_token; j += kWarpLanes) experts[first + j] = NO_EXPERT;
        return;
    }
    const float* own = logits + size_t(blockIdx.x) * num_experts;
    uint64_t best = best_below(own, num_experts, ~uint64_t(0));
    float most = own[id_of(best)], total = 0, sum = 0;
    for (int id = lane_id(); id < num_experts; id += kWarpLanes) total += expf(own[id] - most);
    total = warp_sum(total);
    for (int j = 0; j < per_token; ++j) {
        float weight = expf(own[id_of(best)] - most) / total;
        sum += weight;
        if (lane_id() == 0) {
            experts[first + j] = id_of(best);
            weights[first + j] = weight;
        }
        best = best_below(own, num_experts, best);
    }
    if (!is_normed || lane_id() != 0) return;
    for (int j = 0; j < per_token; ++j) weights[first + j] /= sum;
}
REGISTER_KERNEL(route_tokens)

// A warp an expert, 8 a block: it counts the pairs of those before it, then puts its own behind them.
KERNEL_BOUNDS(256) group_pairs(uint32_t* offsets, uint32_t* pairs, const uint32_t* experts, int num_experts, int num_pairs) {
    uint32_t expert = blockIdx.x * 8 + warp_id();
    if (expert >= uint32_t(num_experts)) return;
    uint32_t end = 0, lanes_before = (1u << lane_id()) - 1;
    for (int start = 0; start < num_pairs; start += kWarpLanes) {
        int i = start + int(lane_id());
        end += __popc(__ballot_sync(kAllLanes, i < num_pairs && experts[i] < expert));
    }
    if (lane_id() == 0) offsets[expert] = end;
    for (int start = 0; start < num_pairs; start += kWarpLanes) {
        int i = start + int(lane_id());
        bool is_own = i < num_pairs && experts[i] == expert;
        uint32_t own = __ballot_sync(kAllLanes, is_own);
        if (is_own) pairs[end + __popc(own & lanes_before)] = uint32_t(i);
        end += __popc(own);
    }
    if (lane_id() == 0 && expert == uint32_t(num_experts) - 1) offsets[num_experts] = end;
}
REGISTER_KERNEL(group_pairs)

// out[i, :] += sum of weight * y over the pairs of token i, in their order. grid (num_tokens, ceil(cols / 256)), 256 threads.
KERNEL_BOUNDS(256) add_experts(float* out, const float* y, const uint32_t* experts, const float* weights, int per_token, int cols) {
    size_t first = size_t(blockIdx.x) * per_token;
    int col = blockIdx.y * 256 + threadIdx.x;
    if (col >= cols || experts[first] == NO_EXPERT) return;
    float sum = out[size_t(blockIdx.x) * cols + col];
    for (int j = 0; j < per_token; ++j) sum += weights[first + j] * y[(first + j) * cols + col];
    out[size_t(blockIdx.x) * cols + col] = sum;
}
REGISTER_KERNEL(add_experts)
