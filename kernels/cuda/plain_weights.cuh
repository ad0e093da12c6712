// Weights that are plain numbers, as the sums of stream.cuh take them: bf16, f16 or f32.
//
// Numbers that bf16 does not hold are split into bf16 terms, hi + lo for f16 and three for f32, which is exact.
#pragma once
#include "stream.cuh"

namespace {

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

// Eight consecutive weights of a row: as they lie in memory, and as pairs of bf16 terms.
template <class Element> struct Eight;

template <> struct Eight<bf16> {
    static constexpr int TERMS = 1;
    uint4 raw;
    METHOD static Eight load(const bf16* at) { return Eight{load_stream(at)}; }
    METHOD void split(uint32_t (&pairs)[TERMS][4]) const {
        pairs[0][0] = raw.x; pairs[0][1] = raw.y; pairs[0][2] = raw.z; pairs[0][3] = raw.w;
    }
};

template <> struct Eight<f16> {
    static constexpr int TERMS = 2;
    uint4 raw;
    METHOD static Eight load(const f16* at) { return Eight{load_stream(at)}; }
    METHOD void split(uint32_t (&pairs)[TERMS][4]) const {
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
        UNROLL
        for (int i = 0; i < 4; ++i) split_pair<TERMS>(lo_f16(words[i]), hi_f16(words[i]), pairs, i);
    }
};

template <> struct Eight<float> {
    static constexpr int TERMS = 3;
    uint4 low, high;
    METHOD static Eight load(const float* at) { return Eight{load_stream(at), load_stream(at + 4)}; }
    METHOD void split(uint32_t (&pairs)[TERMS][4]) const {
        split_pair<TERMS>(__uint_as_float(low.x), __uint_as_float(low.y), pairs, 0);
        split_pair<TERMS>(__uint_as_float(low.z), __uint_as_float(low.w), pairs, 1);
        split_pair<TERMS>(__uint_as_float(high.x), __uint_as_float(high.y), pairs, 2);
        split_pair<TERMS>(__uint_as_float(high.z), __uint_as_float(high.w), pairs, 3);
    }
};

// A lane takes eight columns of a run.
template <class Element> struct PlainWeights {
    static constexpr int RUNS = 1;
    using Raw = Eight<Element>;
    const Element* data;
    const void* unused;
    METHOD bool is_there() const { return data != nullptr; }
    METHOD Raw load(size_t row, int cols, int k, int pair) const { return Raw::load(data + row * cols + k + pair * 8); }
    METHOD static Raw zero() { return Raw{}; }
    METHOD static uint4 load_x(const bf16* run, int pair) { return load16(run + pair * 8); }
    template <int TOKEN_TILES>
    METHOD void add(Sums<TOKEN_TILES>& sums, const Raw& low, const Raw& high, const Run<TOKEN_TILES> (&x)[RUNS], size_t, size_t, int, int) const {
        uint32_t a[Raw::TERMS][4], b[Raw::TERMS][4];
        low.split(a);
        high.split(b);
        UNROLL
        for (int t = 0; t < TOKEN_TILES; ++t) {
            UNROLL
            for (int term = 0; term < Raw::TERMS; ++term) mma_run(sums.of[t], a[term], b[term], x[0].of[t]);
        }
    }
};

} // namespace
