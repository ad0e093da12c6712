// Weights that are codes (codes.cuh), as the sums of stream.cuh take them.
//
// Codes are exact in bf16. The sums of a run, or of half of one, are scaled in f32; what a minimum takes off is the minimum times the sum of the
// tokens' values, which the tensor cores add up too: an mma whose weights are ones.
#pragma once
#include "codes.cuh"
#include "stream.cuh"

namespace {

// Codes that are scaled by runs, or by halves of runs.
template <class Codes> struct CodeWeights {
    static constexpr int RUNS = Codes::RUNS, GROUPS = Codes::GROUPS;
    static constexpr bool MINS = Codes::MINS;
    using Raw = uint2;
    Codes codes;
    METHOD bool is_there() const { return codes.data != nullptr; }
    METHOD Raw load(size_t row, int cols, int k, int pair) const { return codes.load(row, cols, k, pair); }
    METHOD static Raw zero() { return uint2{0, 0}; }
    METHOD static uint4 load_x(const bf16* run, int pair) {
        if (GROUPS == 1) return load16(run + pair * 8);
        uint2 first = load8(run + pair * 4), second = load8(run + 16 + pair * 4);
        return uint4{first.x, first.y, second.x, second.y};
    }
    // sums += scale * product - min * sum of x, for the rows of a lane's results.
    METHOD static void scale(float (&sums)[4], const float (&product)[4], const float (&x_sums)[4], const Factors& low, const Factors& high, int g) {
        UNROLL
        for (int i = 0; i < 4; ++i) {
            const Factors& own = i < 2 ? low : high;
            sums[i] += product[i] * own.scales[g];
            if (MINS) sums[i] -= x_sums[i] * own.mins[g];
        }
    }
    template <int TOKEN_TILES>
    METHOD void add(Sums<TOKEN_TILES>& sums, const Raw& low, const Raw& high, const Run<TOKEN_TILES> (&x)[RUNS], size_t low_row, size_t high_row,
                    int cols, int k) const {
        const uint32_t ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
        UNROLL
        for (int run = 0; run < RUNS; ++run) {
            if (k + run * RUN >= cols) break;
            uint32_t a[4], b[4];
            Codes::unpack(low, run, a);
            Codes::unpack(high, run, b);
            Factors of_low = codes.factors(low_row, cols, k + run * RUN), of_high = codes.factors(high_row, cols, k + run * RUN);
            UNROLL
            for (int t = 0; t < TOKEN_TILES; ++t) {
                const uint4& values = x[run].of[t];
                float product[4] = {0, 0, 0, 0}, x_sums[4] = {0, 0, 0, 0};
                if (GROUPS == 1) {
                    mma_run(product, a, b, values);
                    if (MINS) mma_run(x_sums, ones, ones, values);
                    scale(sums.of[t], product, x_sums, of_low, of_high, 0);
                    continue;
                }
                const uint32_t first[4] = {a[0], b[0], a[1], b[1]}, x_first[2] = {values.x, values.y};
                mma_16816(product, first, x_first);
                if (MINS) mma_16816(x_sums, ones, x_first);
                scale(sums.of[t], product, x_sums, of_low, of_high, 0);
                float other[4] = {0, 0, 0, 0}, other_sums[4] = {0, 0, 0, 0};
                const uint32_t second[4] = {a[2], b[2], a[3], b[3]}, x_second[2] = {values.z, values.w};
                mma_16816(other, second, x_second);
                if (MINS) mma_16816(other_sums, ones, x_second);
                scale(sums.of[t], other, other_sums, of_low, of_high, 1);
            }
        }
    }
};

} // namespace
