// What g++ calls where a kernel breaks a rule of C++ that it was asked to check (`-fsanitize=alignment,bounds,…`): the
// kernel's line becomes the launch's error. No runtime of the compiler is linked.
#include <cstdint>
#include <sys/types.h>

#include "scheduler.h"

namespace {

// Layouts of the compiler's records, from LLVM's `compiler-rt/lib/ubsan/ubsan_handlers.h`; GCC emits the same.
struct Location { const char* file; uint32_t line, column; };
struct TypeMismatch { Location at; const void* type; uint8_t log_alignment, kind; };
struct AnyRecord { Location at; };

} // namespace

extern "C" {

void __ubsan_handle_type_mismatch_v1_abort(TypeMismatch* record, uintptr_t address) {
    emu::fail("makes a misaligned access at %#zx, which is not a multiple of %zu (%s:%u)", size_t(address),
              size_t(1) << record->log_alignment, record->at.file, record->at.line);
}

void __ubsan_handle_out_of_bounds_abort(AnyRecord* record, uintptr_t index) {
    emu::fail("uses the index %zd outside an array (%s:%u)", ssize_t(index), record->at.file, record->at.line);
}

void __ubsan_handle_shift_out_of_bounds_abort(AnyRecord* record, uintptr_t, uintptr_t distance) {
    emu::fail("shifts by %zd bits (%s:%u)", ssize_t(distance), record->at.file, record->at.line);
}

void __ubsan_handle_divrem_overflow_abort(AnyRecord* record, uintptr_t, uintptr_t) {
    emu::fail("divides an integer by zero (%s:%u)", record->at.file, record->at.line);
}

} // extern "C"
