// Products of a few rows with a large matrix of plain numbers, out = x W^T: bf16, f16 or f32, cols a multiple of 8. stream.cuh says how.
//
// Bytes: rows * cols * element; x comes from L2, num_rows / 16 of the weights' bytes a block. Flops: 2 * 8 * ceil(num_rows / 8) * rows * cols.
// Floor at 4.3 TB/s, bf16: down of 7B (3584 x 18944) 31.6 us, QKV of 0.5B (1152 x 896) 0.5 us and a launch.
// Versions: 1 (this), four steps of 32 columns in flight a warp; never ran on a GPU.
#include "plain_weights.cuh"
#include "stream.cuh"

STREAM_KERNELS(bf16_8, PlainWeights<bf16>, bf16, 1)
STREAM_KERNELS(bf16_16, PlainWeights<bf16>, bf16, 2)
STREAM_KERNELS(bf16_64, PlainWeights<bf16>, bf16, 8)
STREAM_KERNELS(f16_8, PlainWeights<f16>, f16, 1)
STREAM_KERNELS(f16_64, PlainWeights<f16>, f16, 8)
STREAM_KERNELS(f32_8, PlainWeights<float>, float, 1)
STREAM_KERNELS(f32_64, PlainWeights<float>, float, 8)
