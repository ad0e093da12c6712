// Small work on whole rows: the rows whose logits are wanted, a factor on the embedding, a bias before a large product adds to it, the
// function and the gate behind two; and whether weights are numbers.
//
// Bytes: each element once in, once out. Floor: a launch each; a prefill of 2048 tokens of 18944 gates 2 * 155 MB in f32, 85 us at 4.3 TB/s.
// Versions: 1; 2 (this), the search for broken numbers and the gathering by 16 bytes a lane, four loads under way: 2 bytes a lane, each behind a
// branch on the last, were expected to read at a quarter of the bandwidth, and the benches take their ceiling from it. Never timed.
#include "common.cuh"

constexpr int IN_FLIGHT = 4; // loads that a thread asks for before it uses the first

// The threads of a block copy a row.
template <class Piece> DEVICE void copy_row(Piece* to, const Piece* from, int len) {
    for (int begin = threadIdx.x; begin < len; begin += blockDim.x * IN_FLIGHT) {
        Piece held[IN_FLIGHT];
        UNROLL
        for (int j = 0; j < IN_FLIGHT; ++j) held[j] = from[min(begin + j * int(blockDim.x), len - 1)];
        UNROLL
        for (int j = 0; j < IN_FLIGHT; ++j)
            if (begin + j * int(blockDim.x) < len) to[begin + j * blockDim.x] = held[j];
    }
}

// out[i, :] = x[rows[i], :]. One block a row; x [num_tokens, cols] f32, rows [num_rows], out [num_rows, cols] f32.
KERNEL gather_rows(float* out, const float* x, const uint32_t* rows, int cols) {
    const float* row = x + size_t(rows[blockIdx.x]) * cols;
    float* to = out + size_t(blockIdx.x) * cols;
    if (cols % 4 == 0) copy_row(reinterpret_cast<float4*>(to), reinterpret_cast<const float4*>(row), cols / 4);
    else copy_row(to, row, cols);
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

// Whether one of the floats in these 16 bytes has all bits of `exponent` set.
template <class Bits> DEVICE bool is_broken(const uint4& raw, unsigned exponent) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
    bool broken = false;
    UNROLL
    for (int i = 0; i < 4; ++i) {
        UNROLL
        for (int shift = 0; shift < 32; shift += 8 * int(sizeof(Bits))) broken |= (words[i] >> shift & exponent) == exponent;
    }
    return broken;
}

// Adds 1 to `num_broken` for each thread that finds an element that is no number. data [len] floats of 8, 16 or 32 bits, by the bits that all
// are set of infinity and NaN: the exponent, of E4M3 the mantissa too. No load waits for what another found.
template <class Bits> DEVICE void find_broken(unsigned* num_broken, const Bits* data, unsigned exponent, unsigned len) {
    constexpr unsigned PIECE = 16 / sizeof(Bits);
    uint64_t thread = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x, num_threads = uint64_t(gridDim.x) * blockDim.x;
    uint64_t num_pieces = len / PIECE;
    bool broken = false;
    for (uint64_t i = thread; i < num_pieces; i += num_threads * IN_FLIGHT) {
        uint4 raw[IN_FLIGHT];
        UNROLL
        for (int j = 0; j < IN_FLIGHT; ++j) raw[j] = load_stream(data + min(i + j * num_threads, num_pieces - 1) * PIECE);
        UNROLL
        for (int j = 0; j < IN_FLIGHT; ++j) broken |= is_broken<Bits>(raw[j], exponent);
    }
    for (uint64_t i = num_pieces * PIECE + thread; i < len; i += num_threads) broken |= (data[i] & exponent) == exponent;
    if (broken) atomicAdd(num_broken, 1u);
}
KERNEL find_broken_8(unsigned* num_broken, const uint8_t* data, unsigned exponent, unsigned len) { find_broken(num_broken, data, exponent, len); }
REGISTER_KERNEL(find_broken_8)
KERNEL find_broken_16(unsigned* num_broken, const uint16_t* data, unsigned exponent, unsigned len) { find_broken(num_broken, data, exponent, len); }
REGISTER_KERNEL(find_broken_16)
KERNEL find_broken_32(unsigned* num_broken, const uint32_t* data, unsigned exponent, unsigned len) { find_broken(num_broken, data, exponent, len); }
REGISTER_KERNEL(find_broken_32)
