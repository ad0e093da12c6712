// Codes to bf16 for the device's library, which takes products of many rows and knows no codes.
//
// Codes as in codes.cuh; out [rows, cols] bf16; cols a multiple of 32. A weight is rounded to bf16 once, by 0.4 % of it at most.
//
// Bytes: rows * cols * (2 + a code). Floor at 4.3 TB/s: down of 7B (3584 x 18944) 48 us from int8, beside 350 us of its product with 2048 tokens.
// Versions: 1 (this); never ran on a GPU.
#include "codes.cuh"

// grid (rows), a thread for 8 bytes of codes.
#define WIDEN_KERNEL(name, Codes)                                                                        \
    KERNEL widen_##name(bf16* out, const uint8_t* data, const void* factors, int cols) {                 \
        widen_row(out + size_t(blockIdx.x) * cols, Codes{data, factors}, blockIdx.x, cols);              \
    }                                                                                                    \
    REGISTER_KERNEL(widen_##name)

FOR_EACH_CODES(WIDEN_KERNEL)
