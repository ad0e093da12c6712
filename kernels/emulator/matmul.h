// `out = x W^T` or `out += x W^T`: bf16 in, sums and result in f32.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emu {

// x: [num_rows, cols]; weights: [rows, cols]; out: [num_rows, rows]. `cols` is a multiple of 8.
struct Product {
    const uint16_t* x;
    const uint16_t* weights;
    float* out;
    size_t num_rows, cols, rows;
    bool add;
};

void matmul(const Product& product);

} // namespace emu
