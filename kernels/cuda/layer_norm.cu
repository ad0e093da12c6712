// y = (x - mean) / sqrt(variance + eps) * weight + bias, one block a row.
//
// x [num_rows, cols] f32, the residual stream; weight, bias [cols] f32; y [num_rows, cols] bf16, for a product to read.
// Bytes: num_rows * cols * 6. Floor: a launch, as of rms_norm.cu.
// Versions: 1, three passes over a row that stays in L1; the variance is that of the differences, since a difference of two sums
// cancels where the mean is large; 2 (this), the row in registers, as in rms_norm.cu and with the same expectation. Never timed.
#include "norm.cuh"

template <int WIDTH> DEVICE void layer_norm_row(bf16* y, const float* x, const float* weight, const float* bias, int cols, float eps) {
    SHARED(float, partial, kWarpLanes);
    const HeldRow<WIDTH> row(x, cols), weights(weight, cols), biases(bias, cols);
    float mean = row.sum(partial, [](float value) { return value; }) / float(cols);
    float squares = row.sum(partial, [mean](float value) { return (value - mean) * (value - mean); });
    float scale = rsqrtf(squares / float(cols) + eps);
    for (int begin = 0; begin < cols; begin += RowShare<WIDTH>::round()) {
        RowShare<WIDTH> out = row.share(begin), factors = weights.share(begin), added = biases.share(begin);
        UNROLL
        for (int j = 0; j < HELD; ++j) {
            UNROLL
            for (int e = 0; e < WIDTH; ++e) out.of[j][e] = (out.of[j][e] - mean) * scale * factors.of[j][e] + added.of[j][e];
        }
        out.store(y, begin, cols);
    }
}

KERNEL_BOUNDS(512, 2) layer_norm(bf16* y, const float* x, const float* weight, const float* bias, int cols, float eps) {
    size_t start = size_t(blockIdx.x) * cols;
    if (cols % 4 == 0) layer_norm_row<4>(y + start, x + start, weight, bias, cols, eps);
    else layer_norm_row<1>(y + start, x + start, weight, bias, cols, eps);
}
REGISTER_KERNEL(layer_norm)
