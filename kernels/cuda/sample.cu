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
// Versions: 1, sums by shared atomics of 64 bits, which are loops of compare-and-swap: all candidates of the first pass in a handful of bins,
// one after the other; a load an iteration; 2 (this), atomics of 32 bits with a carry over several copies of a bin, eight loads under way, bins
// added up by all threads: a drawn row was expected to be bound by its passes' loads. Never timed.
#include "common.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / int(kWarpLanes);
constexpr int BINS = 256;      // values of a byte, a thread each
constexpr int COPIES = 8;      // of a bin, for lanes that would wait for each other's atomics
constexpr int IN_FLIGHT = 8;   // logits that a thread asks for before it looks at the first
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

// Calls `visit` with each of the tokens `first`, `first` + `step`, ... below `end` that is possible, and its logit.
template <class Visit> DEVICE void for_each_possible(const float* logits, uint32_t first, uint32_t end, uint32_t step, Visit visit) {
    for (uint32_t begin = first; begin < end; begin += IN_FLIGHT * step) {
        float held[IN_FLIGHT];
        UNROLL
        for (uint32_t i = 0; i < IN_FLIGHT; ++i) held[i] = begin + i * step < end ? logits[begin + i * step] : -INFINITY;
        UNROLL
        for (uint32_t i = 0; i < IN_FLIGHT; ++i)
            if (is_possible(held[i])) visit(begin + i * step, held[i]);
    }
}

// The tokens of a row that can still be drawn.
struct Candidates {
    const float* logits;
    uint32_t num_ids;
    float max, temperature;
    uint64_t border; // least key

    template <class Visit> METHOD void for_each(uint32_t first, uint32_t end, uint32_t step, Visit visit) const {
        for_each_possible(logits, first, end, step, [&](uint32_t id, float logit) {
            if (key_of(logit, id) >= border) visit(id, logit);
        });
    }
    METHOD uint64_t weight(float logit) const {
        // The largest is at distance 0 even where it is infinite.
        float distance = logit == max ? 0.0f : logit - max;
        return uint64_t(expf(distance / temperature) * FIXED_ONE);
    }
    // The sum of a thread's share of the weights.
    METHOD uint64_t total(uint32_t first, uint32_t end, uint32_t step) const {
        uint64_t sum = 0;
        for_each(first, end, step, [&](uint32_t, float logit) { sum += weight(logit); });
        return sum;
    }
};

// The sum of the numbers of the threads up to this one, and of all: by warps, and then over their sums in `sums` [WARPS].
struct Running { uint64_t here, all; };
DEVICE Running running_sum(uint64_t x, uint64_t* sums) {
    uint64_t here = x;
    UNROLL
    for (unsigned distance = 1; distance < kWarpLanes; distance *= 2) {
        uint64_t before = __shfl_up_sync(kAllLanes, here, distance);
        if (lane_id() >= distance) here += before;
    }
    if (lane_id() == kWarpLanes - 1) sums[warp_id()] = here;
    __syncthreads();
    Running running{here, 0};
    UNROLL
    for (unsigned w = 0; w < WARPS; ++w) {
        if (w < warp_id()) running.here += sums[w];
        running.all += sums[w];
    }
    __syncthreads();
    return running;
}

// Sums of 64 bits in shared memory, whose own atomics have 32: two words, and the carry from the one to the other.
struct Bins {
    uint32_t *low, *high; // [BINS, COPIES]

    METHOD void clear() const {
        for (int i = threadIdx.x; i < BINS * COPIES; i += THREADS) low[i] = high[i] = 0;
    }
    METHOD void add(uint32_t bin, uint64_t amount) const {
        if (amount == 0) return;
        uint32_t i = bin * COPIES + lane_id() % COPIES, part = uint32_t(amount);
        uint32_t carry = atomicAdd(&low[i], part) + part < part ? 1 : 0;
        uint32_t rest = uint32_t(amount >> 32) + carry;
        if (rest) atomicAdd(&high[i], rest);
    }
    METHOD uint64_t get(uint32_t bin) const {
        uint64_t sum = 0;
        UNROLL
        for (int c = 0; c < COPIES; ++c) sum += (uint64_t(high[bin * COPIES + c]) << 32) + low[bin * COPIES + c];
        return sum;
    }
};

// What the threads of a drawing block share.
struct Room {
    Bins bins;
    uint64_t* sums;  // [WARPS]
    uint64_t* found; // [3]
};

// The key at which the amounts of the candidates, added up from the greatest key down, reach `target`: with amounts of 1 the target-th
// best, with weights the border of a nucleus. 0 where they do not. A byte of the key a pass.
template <class Amount> DEVICE uint64_t select(const Candidates& candidates, uint64_t target, const Room& room, Amount amount) {
    uint64_t prefix = 0, before = 0; // the bytes known, and what lies above all keys that begin so
    for (int shift = 56; shift >= 0; shift -= 8) {
        room.bins.clear();
        if (threadIdx.x == 0) room.found[0] = 0;
        __syncthreads();
        candidates.for_each(threadIdx.x, candidates.num_ids, THREADS, [&](uint32_t id, float logit) {
            uint64_t key = key_of(logit, id);
            if (shift == 56 || key >> (shift + 8) == prefix) room.bins.add(uint32_t(key >> shift) & 255, amount(logit));
        });
        __syncthreads();
        // The first thread has the greatest byte.
        uint32_t byte = BINS - 1 - threadIdx.x;
        uint64_t own = room.bins.get(byte), up_to = before + running_sum(own, room.sums).here;
        if (up_to - own < target && target <= up_to) {
            room.found[0] = 1;
            room.found[1] = prefix << 8 | byte;
            room.found[2] = up_to - own;
        }
        __syncthreads();
        if (!room.found[0]) return 0;
        prefix = room.found[1];
        before = room.found[2];
        __syncthreads();
    }
    return prefix;
}

// Draws by ids: each thread sums a run of them, and the one whose run the point falls into finds it.
DEVICE uint32_t draw(const Candidates& candidates, uint64_t random, uint32_t likeliest, uint64_t* sums, uint32_t* drawn) {
    uint32_t run = (candidates.num_ids + THREADS - 1) / THREADS;
    uint32_t first = min(threadIdx.x * run, candidates.num_ids), end = min(first + run, candidates.num_ids);
    uint64_t own = candidates.total(first, end, 1);
    if (threadIdx.x == 0) drawn[0] = likeliest;
    Running running = running_sum(own, sums);
    // The upper half of a product of 128 bits.
    uint64_t point = __umul64hi(random, running.all), sum = running.here - own;
    if (sum <= point && point < running.here) {
        bool is_drawn = false;
        candidates.for_each(first, end, 1, [&](uint32_t id, float logit) {
            sum += candidates.weight(logit);
            if (!is_drawn && sum > point) {
                drawn[0] = id;
                is_drawn = true;
            }
        });
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
    SHARED(uint32_t, low, BINS * COPIES);
    SHARED(uint32_t, high, BINS * COPIES);
    SHARED(uint64_t, sums, WARPS);
    SHARED(uint64_t, found, 3);
    SHARED(uint32_t, flags, 1);
    const SampleRow row = reinterpret_cast<const SampleRow*>(words)[blockIdx.y];
    const float* own = logits + size_t(blockIdx.y) * vocab;
    uint32_t chunk = (uint32_t(num_ids) + gridDim.x - 1) / gridDim.x;
    uint32_t first = blockIdx.x * chunk, end = min(first + chunk, uint32_t(num_ids));
    uint64_t best = 0;
    for_each_possible(own, first + threadIdx.x, end, THREADS, [&](uint32_t id, float logit) { best = max(best, key_of(logit, id)); });
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
        const Room room{{low, high}, sums, found};
        if (row.top_k) candidates.border = max(candidates.border, select(candidates, row.top_k, room, [](float) { return uint64_t(1); }));
        if (row.top_p < 1.0f) {
            uint64_t total = running_sum(candidates.total(threadIdx.x, candidates.num_ids, THREADS), sums).all;
            uint64_t target = max(uint64_t(double(row.top_p) * double(total)), uint64_t(1));
            uint64_t border = select(candidates, target, room, [&](float logit) { return candidates.weight(logit); });
            candidates.border = max(candidates.border, border);
        }
        token = draw(candidates, uint64_t(row.point_high) << 32 | row.point_low, token, sums, flags);
    }
    if (threadIdx.x == 0) {
        tokens[blockIdx.y] = token;
        tickets[blockIdx.y] = 0;
    }
}
REGISTER_KERNEL(sample)
