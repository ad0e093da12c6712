// From logits to tokens, so that logits never leave the device: bias and penalties; the likeliest token, or one drawn from what
// min-p, top-k and top-p leave.
//
// logits [num_rows, vocab] f32, of which the first num_ids of a row may be chosen; rows [num_rows] of SampleRow; tokens [num_rows].
// The order of work, what counts as equal and which token a random number means are those of src/engine/sampler.rs, which is the truth
// of these kernels: a key orders tokens by their logit, then by their id; weights are exp((logit - max) / temperature); the draw goes
// through the tokens left by their ids. Weights are summed as integers of 2^-44, in any order the same.
//
// Bytes: a greedy row is read once, by num_chunks blocks; a drawn row once more for the draw, and eight times more for each of top-k and
// top-p, by one block, from L2. Floor, 152064 tokens: greedy 0.6 MB, a launch; drawn about 6 us a pass of one block.
// Versions: 1 (this); never ran on a GPU.
#include "common.cuh"

namespace {

constexpr int THREADS = 256;
constexpr float FIXED_ONE = 17592186044416.0f; // 2^44

// How a row's token is chosen; Rust writes these words.
struct SampleRow {
    float temperature;      // 0: the likeliest
    float log_min_p;        // logits further than this below the largest are left out; not above 0
    float top_p;            // 1: all
    uint32_t top_k;         // 0: all
    uint32_t point_low, point_high; // the random number, 64 bits after the point
    float repetition, presence, frequency;
    uint32_t first_bias, num_bias; // in pairs: id, what is added
    uint32_t first_seen, num_seen; // in pairs: id, times in the output
};

DEVICE bool is_possible(float logit) { return logit > -INFINITY; } // false for NaN

// Orders floats as unsigned integers.
DEVICE uint32_t ordered(float x) {
    x += 0.0f; // -0 is 0
    uint32_t bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
DEVICE uint64_t key_of(float logit, uint32_t id) { return uint64_t(ordered(logit)) << 32 | (0xffffffffu - id); }

// The tokens of a row that can still be drawn.
struct Candidates {
    const float* logits;
    uint32_t num_ids;
    float max, temperature;
    uint64_t border; // least key

    METHOD bool has(uint32_t id) const { return is_possible(logits[id]) && key_of(logits[id], id) >= border; }
    METHOD uint64_t weight(uint32_t id) const {
        // The largest is at distance 0 even where it is infinite.
        float distance = logits[id] == max ? 0.0f : logits[id] - max;
        return uint64_t(expf(distance / temperature) * FIXED_ONE);
    }
};

// The sum of a number a thread, on every thread.
DEVICE uint64_t block_total(uint64_t x, unsigned long long* total) {
    if (threadIdx.x == 0) *total = 0;
    __syncthreads();
    atomicAdd(total, static_cast<unsigned long long>(x));
    __syncthreads();
    uint64_t sum = *total;
    __syncthreads();
    return sum;
}

// The key at which the amounts of the candidates, added up from the greatest key down, reach `target`: with amounts of 1 the target-th
// best, with weights the border of a nucleus. 0 where they do not. A byte of the key a pass.
template <class Amount>
DEVICE uint64_t select(const Candidates& candidates, uint64_t target, unsigned long long* histogram, uint64_t* found, Amount amount) {
    uint64_t prefix = 0, before = 0; // the bytes known, and what lies above all keys that begin so
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += THREADS) histogram[i] = 0;
        __syncthreads();
        for (uint32_t id = threadIdx.x; id < candidates.num_ids; id += THREADS) {
            if (!candidates.has(id)) continue;
            uint64_t key = key_of(candidates.logits[id], id);
            if (shift == 56 || key >> (shift + 8) == prefix) atomicAdd(&histogram[key >> shift & 255], static_cast<unsigned long long>(amount(id)));
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int byte = 255;
            uint64_t sum = before;
            while (byte >= 0 && sum + histogram[byte] < target) sum += histogram[byte--];
            found[0] = byte < 0 ? 0 : 1;
            found[1] = prefix << 8 | uint64_t(byte & 255);
            found[2] = sum;
        }
        __syncthreads();
        if (!found[0]) return 0;
        prefix = found[1];
        before = found[2];
        __syncthreads();
    }
    return prefix;
}

// Draws by ids: each thread sums a run of them, and the one whose run the point falls into finds it.
DEVICE uint32_t draw(const Candidates& candidates, uint64_t random, uint32_t likeliest, unsigned long long* total, uint64_t* sums, uint32_t* drawn) {
    uint32_t run = (candidates.num_ids + THREADS - 1) / THREADS;
    uint32_t first = min(threadIdx.x * run, candidates.num_ids), end = min(first + run, candidates.num_ids);
    uint64_t own = 0;
    for (uint32_t id = first; id < end; ++id) own += candidates.has(id) ? candidates.weight(id) : 0;
    sums[threadIdx.x] = own;
    if (threadIdx.x == 0) drawn[0] = likeliest;
    uint64_t all = block_total(own, total);
    // The upper half of a product of 128 bits.
    uint64_t point = __umul64hi(random, all), sum = 0;
    for (unsigned t = 0; t < threadIdx.x; ++t) sum += sums[t];
    if (sum <= point && point < sum + own) {
        for (uint32_t id = first; id < end; ++id) {
            sum += candidates.has(id) ? candidates.weight(id) : 0;
            if (sum > point) {
                drawn[0] = id;
                break;
            }
        }
    }
    __syncthreads();
    return drawn[0];
}

// The greatest key of the block, on every thread.
DEVICE uint64_t block_best(uint64_t key, uint64_t* keys) {
    keys[threadIdx.x] = key;
    __syncthreads();
    for (int half = THREADS / 2; half; half /= 2) {
        if (int(threadIdx.x) < half) keys[threadIdx.x] = max(keys[threadIdx.x], keys[threadIdx.x + half]);
        __syncthreads();
    }
    uint64_t best = keys[0];
    __syncthreads();
    return best;
}

} // namespace

// Adds what the request adds to its logits, then the penalties of tokens that were seen. One block a row.
KERNEL adjust_logits(float* logits, const uint32_t* words, const uint32_t* pairs, int vocab, int num_ids) {
    const SampleRow row = reinterpret_cast<const SampleRow*>(words)[blockIdx.x];
    float* own = logits + size_t(blockIdx.x) * vocab;
    for (uint32_t i = threadIdx.x; i < row.num_bias; i += blockDim.x) {
        const uint32_t* pair = pairs + (row.first_bias + i) * 2;
        if (pair[0] < uint32_t(num_ids)) own[pair[0]] += __uint_as_float(pair[1]);
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < row.num_seen; i += blockDim.x) {
        const uint32_t* pair = pairs + (row.first_seen + i) * 2;
        if (pair[0] >= uint32_t(num_ids)) continue;
        float logit = own[pair[0]];
        // Each rounded by itself, as on the host: no fused products.
        logit = logit > 0.0f ? logit / row.repetition : __fmul_rn(logit, row.repetition);
        if (pair[1] > 0) logit -= __fadd_rn(row.presence, __fmul_rn(row.frequency, float(pair[1])));
        own[pair[0]] = logit;
    }
}
REGISTER_KERNEL(adjust_logits)

// grid (num_chunks, num_rows), 256 threads; bests [num_rows, num_chunks], tickets [num_rows], 0 before and after. Each block finds the
// best of its chunk; the last of a row has them all, and draws where the row asks for it.
KERNEL_BOUNDS(256) sample(uint32_t* tokens, const float* logits, const uint32_t* words, uint64_t* bests, unsigned* tickets, int vocab, int num_ids) {
    SHARED(uint64_t, keys, THREADS);
    SHARED(unsigned long long, histogram, 256);
    SHARED(uint64_t, found, 3);
    SHARED(uint32_t, flags, 1);
    const SampleRow row = reinterpret_cast<const SampleRow*>(words)[blockIdx.y];
    const float* own = logits + size_t(blockIdx.y) * vocab;
    uint32_t chunk = (uint32_t(num_ids) + gridDim.x - 1) / gridDim.x;
    uint32_t first = blockIdx.x * chunk, end = min(first + chunk, uint32_t(num_ids));
    uint64_t best = 0;
    for (uint32_t id = first + threadIdx.x; id < end; id += THREADS)
        if (is_possible(own[id])) best = max(best, key_of(own[id], id));
    best = block_best(best, keys);
    if (threadIdx.x == 0) {
        bests[blockIdx.y * gridDim.x + blockIdx.x] = best;
        __threadfence();
        flags[0] = atomicAdd(&tickets[blockIdx.y], 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!flags[0]) return;
    __threadfence();
    best = threadIdx.x < gridDim.x ? bests[blockIdx.y * gridDim.x + threadIdx.x] : 0;
    best = block_best(best, keys);
    // Nothing is possible: the lowest id.
    uint32_t token = best ? 0xffffffffu - uint32_t(best) : 0;
    if (row.temperature > 0.0f && best) {
        float most = own[token];
        Candidates candidates{own, uint32_t(num_ids), most, row.temperature, key_of(most + row.log_min_p, 0xffffffffu)};
        if (row.top_k) candidates.border = max(candidates.border, select(candidates, row.top_k, histogram, found, [](uint32_t) { return uint64_t(1); }));
        if (row.top_p < 1.0f) {
            uint64_t total = 0;
            for (uint32_t id = threadIdx.x; id < uint32_t(num_ids); id += THREADS) total += candidates.has(id) ? candidates.weight(id) : 0;
            total = block_total(total, histogram);
            uint64_t target = uint64_t(double(row.top_p) * double(total));
            uint64_t border = select(candidates, max(target, uint64_t(1)), histogram, found, [&](uint32_t id) { return candidates.weight(id); });
            candidates.border = max(candidates.border, border);
        }
        token = draw(candidates, uint64_t(row.point_high) << 32 | row.point_low, token, histogram, keys, flags);
    }
    if (threadIdx.x == 0) {
        tokens[blockIdx.y] = token;
        tickets[blockIdx.y] = 0;
    }
}
REGISTER_KERNEL(sample)
