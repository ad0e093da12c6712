// The kernels by name.
#include "registry.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

namespace emu {

namespace {

// A function's static: kernels are added by other files' statics, in an order that the language leaves open.
std::map<std::string, Kernel>& kernels() {
    static auto* all = new std::map<std::string, Kernel>;
    return *all;
}

} // namespace

bool add_kernel(const Kernel& kernel) {
    if (!kernels().emplace(kernel.name, kernel).second) {
        fprintf(stderr, "two kernels are named %s\n", kernel.name);
        abort();
    }
    return true;
}

const Kernel* find_kernel(const char* name) {
    auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

const Kernel* kernel_at(size_t i) {
    if (i >= kernels().size()) return nullptr;
    return &std::next(kernels().begin(), long(i))->second;
}

} // namespace emu
