// Every kernel of every translation unit, by name. Filled before `main`, only read afterwards.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace emu {

struct Kernel {
    const char* name;
    void (*run)(const uint64_t* arguments);
    const char* kinds; // a letter a parameter: p pointer, u integer of 32 bits, f float
    bool cooperative;  // all its blocks are alive at once, because they wait for each other
};

bool add_kernel(const Kernel& kernel);
const Kernel* find_kernel(const char* name);
// The i-th kernel in the order of the names, or null.
const Kernel* kernel_at(size_t i);

template <class A> constexpr char kind_of() {
    static_assert(std::is_pointer_v<A> || (std::is_arithmetic_v<A> && sizeof(A) == 4), "a kernel takes pointers, 32-bit integers and floats");
    return std::is_pointer_v<A> ? 'p' : std::is_floating_point_v<A> ? 'f' : 'u';
}

template <class A> A argument(uint64_t bits) {
    A value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <auto F> struct Erased;

template <class... A, void (*F)(A...)> struct Erased<F> {
    static constexpr char kinds[] = {kind_of<A>()..., 0};
    static void run(const uint64_t* arguments) { call(arguments, std::index_sequence_for<A...>{}); }
    template <size_t... I> static void call([[maybe_unused]] const uint64_t* arguments, std::index_sequence<I...>) {
        F(argument<A>(arguments[I])...);
    }
};

} // namespace emu
