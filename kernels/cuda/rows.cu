// Small work on whole rows: the rows whose logits are wanted, a factor on the embedding, a bias before a large product adds to it, the
// function and the gate behind two; and whether weights are numbers.
//
// Bytes: each element once in, once out. Floor: a launch each; a prefill of 2048 tokens of 18944 gates 2 * 155 MB in f32, 85 us at 4.3 TB/s.
// Versions: 1 (this); never ran on a GPU.
#include "common.cuh"

// out[i, :] = x[rows[i], :]. One block a row; x [num_tokens, cols] f32, rows [num_rows], out [num_rows, cols] f32.
KERNEL gather_rows(float* out, const float* x, const uint32_t* rows, int cols) {
    const float* row = x + size_t(rows[blockIdx.x]) * cols;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) out[size_t(blockIdx.x) * cols + i] = row[i];
}
REGISTER_KERNEL(gather_rows)

// out[i, :] = bias. One block a row; bias [cols] f32, out [num_rows, cols] f32.
KERNEL fill_rows(float* out, const float* bias, int cols) {
    for (int i = threadIdx.x; i < cols; i += blockDim.x) out[size_t(blockIdx.x) * cols + i] = bias[i];
}
REGISTER_KERNEL(fill_rows)

// out[i, :] += bias. One block a row; bias [cols] f32, out [num_rows, cols] f32.
KERNEL add_rows(float* out, const float* bias, int cols) {
    for (int i = threadIdx.x; i < cols; i += blockDim.x) out[size_t(blockIdx.x) * cols + i] += bias[i];
}
REGISTER_KERNEL(add_rows)

// x *= factor. One block a row; x [num_rows, cols] f32.
KERNEL scale_rows(float* x, float factor, int cols) {
    for (int i = threadIdx.x; i < cols; i += blockDim.x) x[size_t(blockIdx.x) * cols + i] *= factor;
}
REGISTER_KERNEL(scale_rows)

// out = activation(gate + gate_bias) * (up + up_bias), or without the second factor. One block a row; gate, up [num_rows, cols] f32, biases
// [cols] f32, of these only gate always there; out [num_rows, cols] bf16, for a product to read.
KERNEL activate_rows(bf16* out, const float* gate, const float* gate_bias, const float* up, const float* up_bias, int cols, int activation) {
    size_t start = size_t(blockIdx.x) * cols;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) {
        float value = activate(activation, gate_bias ? gate[start + i] + gate_bias[i] : gate[start + i]);
        if (up) value *= up_bias ? up[start + i] + up_bias[i] : up[start + i];
        out[start + i] = to_bf16(value);
    }
}
REGISTER_KERNEL(activate_rows)

// Adds 1 to `num_broken` for each thread that finds an element that is no number. data [len] floats of 8, 16 or 32 bits, by the bits that all
// are set of infinity and NaN: the exponent, of E4M3 the mantissa too.
template <class Bits> DEVICE void find_broken(unsigned* num_broken, const Bits* data, unsigned exponent, unsigned len) {
    bool broken = false;
    for (uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x; i < len; i += gridDim.x * blockDim.x)
        broken = broken || (data[i] & exponent) == exponent;
    if (broken) atomicAdd(num_broken, 1u);
}
KERNEL find_broken_8(unsigned* num_broken, const uint8_t* data, unsigned exponent, unsigned len) { find_broken(num_broken, data, exponent, len); }
REGISTER_KERNEL(find_broken_8)
KERNEL find_broken_16(unsigned* num_broken, const uint16_t* data, unsigned exponent, unsigned len) { find_broken(num_broken, data, exponent, len); }
REGISTER_KERNEL(find_broken_16)
KERNEL find_broken_32(unsigned* num_broken, const uint32_t* data, unsigned exponent, unsigned len) { find_broken(num_broken, data, exponent, len); }
REGISTER_KERNEL(find_broken_32)
