// Products of a few rows with a large matrix of codes, out = x W^T: integers of four or eight bits (codes.cuh), or fp8; cols a multiple of 32,
// of fp8 of 128. stream.cuh and code_weights.cuh say how.
//
// Bytes: rows * cols * (1 + 1/16) for int8, (1/2 + 1/16) for int4, 1/16 more for each further factor of a run; fp8 (1 + 1/32). Flops: those of
// stream_matmul.cu, twice where there are minimums. Unpacking takes about three instructions a weight of a byte and one and a half a nibble.
// Floor at 4.3 TB/s: down of 7B (3584 x 18944) 16.8 us in int8, 9.9 us in int4 with minimums.
// Versions: 1, int8 by conversions; 2 (this), by bits, and all forms; never ran on a GPU.
#include "code_weights.cuh"
#include "codes.cuh"
#include "stream.cuh"

#define STREAM_CODES(name, Codes)                                  \
    STREAM_KERNELS(name##_8, CodeWeights<Codes>, uint8_t, 1)       \
    STREAM_KERNELS(name##_64, CodeWeights<Codes>, uint8_t, 8)

FOR_EACH_CODES(STREAM_CODES)
STREAM_KERNELS(int8_16, CodeWeights<Int8>, uint8_t, 2)
