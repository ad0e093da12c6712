// Rows of the embedding table, one block a token.
//
// table [vocab, cols] of bf16, f16, f32 or codes (codes.cuh); ids [num_tokens], of which those with the highest bit name a
// row of sampled [], the tokens that the step before has chosen; out [num_tokens, cols] f32, or bf16 where a product reads it.
// Bytes: num_tokens * cols * (element + 4). Floor: a launch; a decode step of 64 tokens of 3584 reads 0.5 MB, 0.1 us at 4.3 TB/s.
// Versions: 1, a thread an element; 2 (this), ids that the host does not know yet; never ran on a GPU.
#include "codes.cuh"

// The token of this block.
DEVICE size_t token_of(const uint32_t* ids, const uint32_t* sampled) {
    uint32_t id = ids[blockIdx.x];
    return id >> 31 ? sampled[id & 0x7fffffffu] : id;
}

template <class Out, class T> DEVICE void embed(Out* out, const T* table, size_t token, int cols) {
    const T* row = table + token * cols;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) put(&out[size_t(blockIdx.x) * cols + i], to_float(row[i]));
}

#define EMBED_KERNELS(Out)                                                                                                                 \
    KERNEL embed_bf16_##Out(Out* out, const bf16* table, const f16*, const uint32_t* ids, const uint32_t* sampled, int cols) {             \
        embed(out, table, token_of(ids, sampled), cols);                                                                                   \
    }                                                                                                                                      \
    REGISTER_KERNEL(embed_bf16_##Out)                                                                                                      \
    KERNEL embed_f16_##Out(Out* out, const f16* table, const f16*, const uint32_t* ids, const uint32_t* sampled, int cols) {               \
        embed(out, table, token_of(ids, sampled), cols);                                                                                   \
    }                                                                                                                                      \
    REGISTER_KERNEL(embed_f16_##Out)                                                                                                       \
    KERNEL embed_f32_##Out(Out* out, const float* table, const f16*, const uint32_t* ids, const uint32_t* sampled, int cols) {             \
        embed(out, table, token_of(ids, sampled), cols);                                                                                   \
    }                                                                                                                                      \
    REGISTER_KERNEL(embed_f32_##Out)

#define EMBED_CODES(name, Codes, Out)                                                                                                      \
    KERNEL embed_##name##_##Out(Out* out, const uint8_t* data, const void* factors, const uint32_t* ids, const uint32_t* sampled,          \
                                int cols) {                                                                                                \
        widen_row(out + size_t(blockIdx.x) * cols, Codes{data, factors}, token_of(ids, sampled), cols);                                    \
    }                                                                                                                                      \
    REGISTER_KERNEL(embed_##name##_##Out)
#define EMBED_FLOAT(name, Codes) EMBED_CODES(name, Codes, float)
#define EMBED_BF16(name, Codes) EMBED_CODES(name, Codes, bf16)

EMBED_KERNELS(float)
EMBED_KERNELS(bf16)
FOR_EACH_CODES(EMBED_FLOAT)
FOR_EACH_CODES(EMBED_BF16)
