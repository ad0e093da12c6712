// Numbers of 16 bits as floats, without branches so that loops over them become vectors.
#pragma once
#include <cstdint>
#include <cstring>

namespace emu {

inline float float_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

inline uint32_t bits_of_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float float_of_bf16(uint16_t bits) { return float_of_bits(uint32_t(bits) << 16); }

// The exponent is moved by a product with 2^112, which makes normal numbers of subnormal ones too.
inline float float_of_f16(uint16_t bits) {
    uint32_t magnitude = uint32_t(bits & 0x7fffu) << 13;
    uint32_t moved = bits_of_float(float_of_bits(magnitude) * 0x1p112f);
    if (magnitude >= 0x0f800000u) moved |= 0x7f800000u;
    return float_of_bits(moved | uint32_t(bits & 0x8000u) << 16);
}

// Rounds to nearest, ties to even; cut at 65504; NaN stays NaN.
inline uint16_t f16_of_float(float x) {
    uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00u);
    if (magnitude >= 0x477fe000u) return uint16_t(sign | 0x7bffu);
    // Below 2^-14 halves are multiples of 2^-24: adding 0.5 makes the float unit round to one.
    if (magnitude < 0x38800000u) return uint16_t(sign | (bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u));
    uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return uint16_t(sign | ((rounded - 0x38000000u) >> 13));
}

} // namespace emu
