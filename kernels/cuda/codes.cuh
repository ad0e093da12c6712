// Weights that are codes of four or eight bits: how they lie in memory, and what they stand for.
//
// A run is 32 columns of a row; its groups, one of 32 codes or two of 16, have a scale each and may have a minimum:
// weight = scale * code - min. Factors: [rows, num_runs, GROUPS * (1 + MINS)] f16, the scales of a run and then its minimums.
// Codes lie as the lanes of an mma take them: a lane loads 8 bytes, a run of bytes or two runs of nibbles, for which rows are padded to whole
// pairs of runs. Where a run has two groups, the first mma takes the first and the second the other, so that each can be scaled by itself.
//
// fp8 is E4M3 with a scale in f32 for each 128 columns.
#pragma once
#include "common.cuh"

namespace {

// The column, of a run, of a lane's code `j` of 8.
template <int GROUPS> DEVICE int column_of(int pair, int j) { return GROUPS == 1 ? pair * 8 + j : j / 4 * 16 + pair * 4 + j % 4; }

// Bytes -128..127. They become 2^23 + code + 128 by their bits, which needs no conversion, and are exact in bf16.
struct Bytes {
    static constexpr int RUNS = 1; // of a lane's 8 bytes
    METHOD static float code(uint32_t word, int byte) {
        return __uint_as_float(0x4b000000u | ((word ^ 0x80808080u) >> (8 * byte) & 0xffu)) - 8388736.0f;
    }
    METHOD static void unpack(const uint2& raw, int, bool, uint32_t (&pairs)[4]) {
        pairs[0] = pack_bf16(code(raw.x, 0), code(raw.x, 1));
        pairs[1] = pack_bf16(code(raw.x, 2), code(raw.x, 3));
        pairs[2] = pack_bf16(code(raw.y, 0), code(raw.y, 1));
        pairs[3] = pack_bf16(code(raw.y, 2), code(raw.y, 3));
    }
};

// Nibbles 0..15, around 8 where there are no minimums: code j of 8 in bits 4 (j / 2) + 16 (j % 2). As the mantissa of 128 they are bf16 pairs at once; what is too much is taken off.
struct Nibbles {
    static constexpr int RUNS = 2;
    METHOD static void unpack(const uint2& raw, int run, bool is_centred, uint32_t (&pairs)[4]) {
        uint32_t word = run == 0 ? raw.x : raw.y, excess = is_centred ? 0x43084308u : 0x43004300u;
        UNROLL
        for (int i = 0; i < 4; ++i) pairs[i] = sub_bf16_pairs((word >> (4 * i) & 0x000f000fu) | 0x43004300u, excess);
    }
};

// Scales and minimums of a run.
struct Factors {
    float scales[2], mins[2];
};

// Integers in runs.
template <class Bits, int NUM_GROUPS, bool HAS_MINS> struct RunCodes {
    static constexpr int RUNS = Bits::RUNS, GROUPS = NUM_GROUPS, NUM_FACTORS = GROUPS * (1 + HAS_MINS);
    static constexpr bool MINS = HAS_MINS;
    const uint8_t* data;
    const void* all_factors;
    METHOD static size_t num_runs(int cols) { return size_t(cols + RUNS * 32 - 1) / (RUNS * 32) * RUNS; }
    METHOD uint2 load(size_t row, int cols, int k, int pair) const {
        return load_stream8(data + (row * num_runs(cols) + k / 32) / RUNS * 32 + pair * 8);
    }
    // Writes the lane's eight codes of a run, in pairs of bf16.
    METHOD static void unpack(const uint2& raw, int run, uint32_t (&pairs)[4]) { Bits::unpack(raw, run, !MINS, pairs); }
    METHOD Factors factors(size_t row, int cols, int k) const {
        const f16* own = static_cast<const f16*>(all_factors) + (row * num_runs(cols) + k / 32) * NUM_FACTORS;
        Factors factors = {};
        UNROLL
        for (int i = 0; i < GROUPS; ++i) {
            factors.scales[i] = to_float(own[i]);
            if (MINS) factors.mins[i] = to_float(own[GROUPS + i]);
        }
        return factors;
    }
};

// E4M3 with a scale in f32 for each 128 columns: [rows, ceil(cols / 128)].
struct Fp8 {
    static constexpr int RUNS = 1, GROUPS = 1;
    static constexpr bool MINS = false;
    const uint8_t* data;
    const void* all_factors;
    METHOD static size_t num_runs(int cols) { return size_t(cols) / 32; }
    METHOD uint2 load(size_t row, int cols, int k, int pair) const { return load_stream8(data + row * cols + k + pair * 8); }
    // Exponent and mantissa a step below bf16's place, and its bias 120 below: times 2^120, which is exact, also for what is subnormal.
    METHOD static uint32_t pair(uint32_t low, uint32_t high) {
        uint32_t bits = low | high << 16;
        return scale_bf16_pairs((bits & 0x00800080u) << 8 | (bits & 0x007f007fu) << 4, 0x7b807b80u);
    }
    METHOD static void unpack(const uint2& raw, int, uint32_t (&pairs)[4]) {
        pairs[0] = pair(raw.x & 0xffu, raw.x >> 8 & 0xffu);
        pairs[1] = pair(raw.x >> 16 & 0xffu, raw.x >> 24);
        pairs[2] = pair(raw.y & 0xffu, raw.y >> 8 & 0xffu);
        pairs[3] = pair(raw.y >> 16 & 0xffu, raw.y >> 24);
    }
    METHOD Factors factors(size_t row, int cols, int k) const {
        return Factors{{static_cast<const float*>(all_factors)[row * ((cols + 127) / 128) + k / 128], 0}, {0, 0}};
    }
};

using Int8 = RunCodes<Bytes, 1, false>;
using Int8Min = RunCodes<Bytes, 1, true>;
using Int8Halves = RunCodes<Bytes, 2, false>;
using Int8HalvesMin = RunCodes<Bytes, 2, true>;
using Int4 = RunCodes<Nibbles, 1, false>;
using Int4Min = RunCodes<Nibbles, 1, true>;
using Int4HalvesMin = RunCodes<Nibbles, 2, true>;

// What a lane's eight codes of a run stand for.
template <class Codes> DEVICE void widen_run(float (&values)[8], const uint2& raw, int run, const Factors& factors) {
    uint32_t pairs[4];
    Codes::unpack(raw, run, pairs);
    UNROLL
    for (int j = 0; j < 8; ++j) {
        int g = Codes::GROUPS == 1 ? 0 : j / 4;
        float value = factors.scales[g] * (j % 2 == 0 ? lo(pairs[j / 2]) : hi(pairs[j / 2]));
        values[j] = Codes::MINS ? value - factors.mins[g] : value;
    }
}

// The lane's eight weights of a run to their places in a row.
template <class Codes, class Out> DEVICE void put_run(Out* out, const Codes& codes, const uint2& raw, size_t row, int cols, int k, int pair) {
    float values[8];
    widen_run<Codes>(values, raw, k / 32 % Codes::RUNS, codes.factors(row, cols, k));
    UNROLL
    for (int j = 0; j < 8; ++j) put(&out[k + column_of<Codes::GROUPS>(pair, j)], values[j]);
}

// A row as numbers, by the threads of a block; each takes 8 bytes at a time.
template <class Codes, class Out> DEVICE void widen_row(Out* out, const Codes& codes, size_t row, int cols) {
    for (int i = threadIdx.x; i < int(Codes::num_runs(cols)) / Codes::RUNS * 4; i += blockDim.x) {
        int k = i / 4 * Codes::RUNS * 32, pair = i % 4;
        uint2 raw = codes.load(row, cols, k, pair);
        UNROLL
        for (int run = 0; run < Codes::RUNS; ++run)
            if (k + run * 32 < cols) put_run(out, codes, raw, row, cols, k + run * 32, pair);
    }
}

} // namespace

// Expands `X(name, type)` for each form of codes, and for those of one stored type: the other is a join of two.
#define FOR_EACH_CODES(X) \
    FOR_EACH_STORED_CODES(X) \
    X(int8_halves_min, Int8HalvesMin)
#define FOR_EACH_STORED_CODES(X) \
    X(int8, Int8) \
    X(int8_min, Int8Min) \
    X(int8_halves, Int8Halves) \
    X(int4, Int4) \
    X(int4_min, Int4Min) \
    X(int4_halves_min, Int4HalvesMin) \
    X(fp8, Fp8)
