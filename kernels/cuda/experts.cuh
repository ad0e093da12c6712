// What the experts' products share, for few tokens and for many: the pairs of a block, and where its rows come from and go.
#pragma once
#include "common.cuh"

namespace {

// Pairs [begin, end) of a list that is sorted by expert, all of one.
struct Group {
    int expert, begin, end;
    METHOD bool is_empty() const { return begin >= end; }
};

// Who has which pairs, as route.cu leaves it.
struct Pairs {
    const uint32_t* pairs;   // [num_pairs]
    const uint32_t* offsets; // [num_experts + 1]
    int num_experts;

    METHOD Group of(int expert) const { return Group{expert, int(offsets[expert]), int(offsets[expert + 1])}; }
};

// What becomes of a sum: gated with the other's, stored, rounded for the next product, added to what is there. Adapters (LoRA) are experts of low rank,
// one a token, and take the last two.
enum class Then { GATE, STORE, ROUND, ADD };

// Brings a sum to its element.
template <Then THEN, class Out> DEVICE void put_then(Out* element, float sum) {
    if constexpr (THEN == Then::ADD) sum += *element;
    put(element, sum);
}

// The products of one kind: gates and ups of all experts, gated with each other, or the way back.
template <class Weights> struct Products {
    const bf16* x;         // [num_pairs / x_pairs, cols]: a row is shared by so many pairs
    int x_pairs;
    Weights first, second; // [num_experts * rows, cols]; the second of ups, and nothing for the way back
    int rows, cols;

    METHOD const bf16* row_of(uint32_t pair) const { return x + size_t(pair) / x_pairs * cols; }
    METHOD size_t first_row_of(int expert) const { return size_t(expert) * rows; }
};

} // namespace
