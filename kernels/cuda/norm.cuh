// A block's share of a row that is normed: loads of all that a thread has, before the first is used.
#pragma once
#include "common.cuh"

namespace {

constexpr int HELD = 2; // loads of a thread: with 512 threads a row of 4096 lies in registers, and two blocks share a multiprocessor

// A thread's share of a round of a row: HELD times WIDTH neighbouring elements, 4 where a row has a multiple of them, else 1.
template <int WIDTH> struct RowShare {
    float of[HELD][WIDTH];

    // Elements of a row that the block holds at once.
    METHOD static int round() { return int(blockDim.x) * HELD * WIDTH; }
    METHOD static int column(int begin, int j) { return begin + (j * int(blockDim.x) + int(threadIdx.x)) * WIDTH; }

    // Brings the round from `begin` on; 0 behind the end.
    METHOD void load(const float* row, int begin, int cols) {
        UNROLL
        for (int j = 0; j < HELD; ++j) {
            int i = column(begin, j);
            if constexpr (WIDTH == 4) {
                float4 x = i < cols ? *reinterpret_cast<const float4*>(row + i) : float4{0, 0, 0, 0};
                of[j][0] = x.x, of[j][1] = x.y, of[j][2] = x.z, of[j][3] = x.w;
            } else {
                of[j][0] = i < cols ? row[i] : 0.0f;
            }
        }
    }

    // The sum of what `term` makes of each element that there is.
    template <class Term> METHOD float sum(int begin, int cols, Term term) const {
        float sum = 0;
        UNROLL
        for (int j = 0; j < HELD; ++j) {
            UNROLL
            for (int e = 0; e < WIDTH; ++e) sum += column(begin, j) < cols ? term(of[j][e]) : 0.0f;
        }
        return sum;
    }

    // Writes the share, rounded.
    METHOD void store(bf16* row, int begin, int cols) const {
        UNROLL
        for (int j = 0; j < HELD; ++j) {
            int i = column(begin, j);
            if (i >= cols) continue;
            if constexpr (WIDTH == 4) {
                *reinterpret_cast<uint2*>(row + i) = uint2{pack_bf16(of[j][0], of[j][1]), pack_bf16(of[j][2], of[j][3])};
            } else {
                row[i] = to_bf16(of[j][0]);
            }
        }
    }
};

// A row, of which the first round stays in registers.
template <int WIDTH> struct HeldRow {
    const float* row;
    int cols;
    RowShare<WIDTH> first;

    METHOD HeldRow(const float* row, int cols) : row(row), cols(cols) { first.load(row, 0, cols); }

    METHOD RowShare<WIDTH> share(int begin) const {
        if (begin == 0) return first;
        RowShare<WIDTH> share;
        share.load(row, begin, cols);
        return share;
    }

    // The sum over the row, in every thread, of what `term` makes of each element.
    template <class Term> METHOD float sum(float* partial, Term term) const {
        float sum = first.sum(0, cols, term);
        for (int begin = RowShare<WIDTH>::round(); begin < cols; begin += RowShare<WIDTH>::round()) sum += share(begin).sum(begin, cols, term);
        return block_sum(sum, partial);
    }
};

} // namespace
