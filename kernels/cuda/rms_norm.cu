// y = x / rms(x) * weight, one block a row.
//
// x [num_rows, cols] f32, the residual stream; weight [cols] f32; y [num_rows, cols] bf16, for a product to read.
// Bytes: num_rows * cols * 6. Floor: a launch, about 2 us eager and 1 us in a graph: 64 rows of 3584 are 1.4 MB, 0.3 us at 4.3 TB/s.
// Versions: 1, two passes over a row that stays in L1, a load of 4 bytes an iteration; 2 (this), row and weight by 16 bytes into registers,
// all loads under way before the sum: expected to wait for memory once instead of about fifteen times. Never timed.
#include "norm.cuh"

template <int WIDTH> DEVICE void rms_norm_row(bf16* y, const float* x, const float* weight, int cols, float eps) {
    SHARED(float, partial, kWarpLanes);
    const HeldRow<WIDTH> row(x, cols), weights(weight, cols);
    float squares = row.sum(partial, [](float value) { return value * value; });
    float scale = rsqrtf(squares / float(cols) + eps);
    for (int begin = 0; begin < cols; begin += RowShare<WIDTH>::round()) {
        RowShare<WIDTH> out = row.share(begin), factors = weights.share(begin);
        UNROLL
        for (int j = 0; j < HELD; ++j) {
            UNROLL
            for (int e = 0; e < WIDTH; ++e) out.of[j][e] = out.of[j][e] * scale * factors.of[j][e];
        }
        out.store(y, begin, cols);
    }
}

KERNEL_BOUNDS(512, 2) rms_norm(bf16* y, const float* x, const float* weight, int cols, float eps) {
    size_t start = size_t(blockIdx.x) * cols;
    if (cols % 4 == 0) rms_norm_row<4>(y + start, x + start, weight, cols, eps);
    else rms_norm_row<1>(y + start, x + start, weight, cols, eps);
}
REGISTER_KERNEL(rms_norm)
