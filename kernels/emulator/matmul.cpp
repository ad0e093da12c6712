// The large product that a GPU's library computes: plain, but with vectors.
#include "matmul.h"

#include <cstring>
#include <vector>

#include "numbers.h"

namespace emu {

namespace {

typedef float Eight __attribute__((vector_size(32)));

// Sums of a tile: so many rows of `x` against so many of the weights fill the vector registers.
constexpr size_t kTileX = 4, kTileW = 2;

// Rows that are added to fill a tile; their sums are not stored.
size_t padded(size_t rows, size_t tile) { return (rows + tile - 1) / tile * tile; }

// `count` rows as floats, with rows of zeros behind them up to a tile.
std::vector<float> widen(const uint16_t* from, size_t count, size_t cols, size_t tile) {
    std::vector<float> rows(padded(count, tile) * cols);
    for (size_t i = 0; i < count * cols; ++i) rows[i] = float_of_bf16(from[i]);
    return rows;
}

// The heap aligns to 16 bytes only.
inline __attribute__((always_inline)) Eight load(const float* from) {
    Eight values;
    memcpy(&values, from, sizeof values);
    return values;
}

__attribute__((target_clones("avx2", "default")))
void tile(const float* x, const float* w, size_t cols, float (&out)[kTileX][kTileW]) {
    Eight sums[kTileX][kTileW] = {};
    for (size_t k = 0; k < cols; k += 8)
        for (size_t i = 0; i < kTileX; ++i)
            for (size_t j = 0; j < kTileW; ++j) sums[i][j] += load(&x[i * cols + k]) * load(&w[j * cols + k]);
    for (size_t i = 0; i < kTileX; ++i)
        for (size_t j = 0; j < kTileW; ++j) {
            float sum = 0;
            for (int lane = 0; lane < 8; ++lane) sum += sums[i][j][lane];
            out[i][j] = sum;
        }
}

} // namespace

void matmul(const Product& p) {
    std::vector<float> x = widen(p.x, p.num_rows, p.cols, kTileX);
    for (size_t j = 0; j < p.rows; j += kTileW) {
        size_t columns = p.rows - j < kTileW ? p.rows - j : kTileW;
        std::vector<float> w = widen(p.weights + j * p.cols, columns, p.cols, kTileW);
        for (size_t i = 0; i < p.num_rows; i += kTileX) {
            float sums[kTileX][kTileW];
            tile(&x[i * p.cols], w.data(), p.cols, sums);
            for (size_t r = i; r < i + kTileX && r < p.num_rows; ++r)
                for (size_t c = 0; c < columns; ++c) {
                    float& out = p.out[r * p.rows + j + c];
                    out = p.add ? out + sums[r - i][c] : sums[r - i][c];
                }
        }
    }
}

} // namespace emu
