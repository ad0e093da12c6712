// y = (x - mean) / sqrt(variance + eps) * weight + bias, one block a row.
//
// x [num_rows, cols] f32, the residual stream; weight, bias [cols] f32; y [num_rows, cols] bf16, for a product to read.
// Bytes: num_rows * cols * 6. Floor: a launch, as of rms_norm.cu.
// Versions: 1 (this), three passes over a row that stays in L1; the variance is that of the differences, since a difference of two sums
// cancels where the mean is large; never ran on a GPU.
#include "common.cuh"

KERNEL layer_norm(bf16* y, const float* x, const float* weight, const float* bias, int cols, float eps) {
    SHARED(float, partial, kWarpLanes);
    const float* row = x + size_t(blockIdx.x) * cols;
    float sum = 0, squares = 0;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) sum += row[i];
    float mean = block_sum(sum, partial) / float(cols);
    for (int i = threadIdx.x; i < cols; i += blockDim.x) squares += (row[i] - mean) * (row[i] - mean);
    float scale = rsqrtf(block_sum(squares, partial) / float(cols) + eps);
    for (int i = threadIdx.x; i < cols; i += blockDim.x) y[size_t(blockIdx.x) * cols + i] = to_bf16((row[i] - mean) * scale * weight[i] + bias[i]);
}
REGISTER_KERNEL(layer_norm)
