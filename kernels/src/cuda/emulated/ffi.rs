//! The emulator's C interface (`kernels/emulator/c_api.cpp`), made safe where it can be.
//!
//! What stays the caller's duty is the device's contract: a launch may touch whatever its arguments say. Outside of the
//! emulator's buffers that is caught by guard pages in practice, but a wild address may hit the process's own memory.

#![expect(unsafe_code, reason = "calls C++ and copies from and to its buffers")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use crate::cuda::device::{Argument, Matmul, Store};

/// As `EmuLaunch` in `c_api.cpp`.
#[repr(C)]
struct RawLaunch {
    kernel: *const c_char,
    grid: [u32; 3],
    num_threads: u32,
    shared_bytes: u32,
    num_arguments: u32,
    arguments: *const u64,
    kinds: *const u8,
    seed: u64,
    only_check: u32,
}

/// As `emu::Product` in `matmul.h`.
#[repr(C)]
struct RawProduct {
    x: u64,
    weights: u64,
    out: u64,
    num_rows: usize,
    cols: usize,
    rows: usize,
    add: bool,
}

unsafe extern "C" {
    fn emu_alloc(num_bytes: usize) -> *mut c_void;
    fn emu_free(buffer: *mut c_void);
    fn emu_inside(address: u64, num_bytes: usize) -> c_int;
    fn emu_slack_is_damaged(address: u64) -> c_int;
    fn emu_has_kernel(name: *const c_char) -> c_int;
    fn emu_kernel_name(index: usize) -> *const c_char;
    fn emu_launch(launch: *const RawLaunch, error: *mut c_char, error_bytes: usize) -> c_int;
    fn emu_matmul(product: *const RawProduct);
}

/// A launch whose kernel's name is resolved.
pub(super) struct SeededLaunch<'a> {
    pub(super) kernel: &'a str,
    pub(super) grid: [u32; 3],
    pub(super) num_threads: u32,
    pub(super) shared_bytes: u32,
    pub(super) arguments: &'a [Argument],
    pub(super) seed: u64,
}

/// Whether a launch runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Run,
    OnlyCheck,
}

/// A buffer between guard pages.
#[derive(Debug)]
pub(super) struct Buffer {
    address: *mut u8,
    num_bytes: usize,
}

// SAFETY: the buffer is plain memory that this value owns; kernels get its address as a number, one launch at a time.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Returns memory full of NaN, or nothing where the system has none.
    pub(super) fn new(num_bytes: usize) -> Option<Self> {
        // SAFETY: takes any size.
        let address: *mut u8 = unsafe { emu_alloc(num_bytes) }.cast();
        (!address.is_null()).then_some(Self { address, num_bytes })
    }

    pub(super) fn address(&self) -> u64 {
        self.address.expose_provenance() as u64
    }

    pub(super) fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    pub(super) fn zero(&mut self) {
        // SAFETY: the buffer has so many bytes and nobody else reads them now.
        unsafe { ptr::write_bytes(self.address, 0, self.num_bytes) }
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let to = self.range(offset, bytes.len());
        // SAFETY: `range` has checked the bounds, and a slice of Rust's never overlaps the buffer.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    pub(super) fn read(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.range(offset, bytes.len());
        // SAFETY: `range` has checked the bounds, and a slice of Rust's never overlaps the buffer.
        unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Returns where `len` bytes from `offset` on start.
    fn range(&self, offset: usize, len: usize) -> *mut u8 {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.num_bytes);
        assert!(fits, "{len} bytes from {offset} on must lie within {} bytes", self.num_bytes);
        self.address.wrapping_add(offset)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the address came from `emu_alloc` and is freed once.
        unsafe { emu_free(self.address.cast()) }
    }
}

/// Returns whether the bytes lie in one buffer of the emulator.
pub(super) fn is_inside(address: u64, num_bytes: usize) -> bool {
    // SAFETY: looks both numbers up in a table.
    unsafe { emu_inside(address, num_bytes) != 0 }
}

/// Copies bytes out of the emulator's memory.
///
/// # Panics
/// Where they do not lie in one buffer.
pub(super) fn read(address: u64, bytes: &mut [u8]) {
    let from: *const u8 = ptr::with_exposed_provenance(inside(address, bytes.len()));
    // SAFETY: the bytes lie in a buffer, and a slice of Rust's never overlaps one.
    unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
}

/// Copies bytes into the emulator's memory.
///
/// # Panics
/// Where there is no room for them in one buffer.
pub(super) fn write(address: u64, bytes: &[u8]) {
    let to: *mut u8 = ptr::with_exposed_provenance_mut(inside(address, bytes.len()));
    // SAFETY: the bytes lie in a buffer, and a slice of Rust's never overlaps one.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
}

/// Returns the address as the host has it: the emulator's memory is the host's.
fn inside(address: u64, num_bytes: usize) -> usize {
    assert!(is_inside(address, num_bytes), "{num_bytes} bytes at {address:#x} lie in no buffer");
    address as usize
}

/// Returns whether somebody wrote beside the buffer that holds the address, before the next guard page.
pub(super) fn is_slack_damaged(address: u64) -> bool {
    // SAFETY: looks the number up in a table and reads the pages of what is found there.
    unsafe { emu_slack_is_damaged(address) != 0 }
}

/// Returns whether a kernel of this name was compiled.
pub(super) fn has_kernel(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the string ends with a zero and outlives the call.
    unsafe { emu_has_kernel(name.as_ptr()) != 0 }
}

/// Returns the kernels' names, sorted.
pub(super) fn kernel_names() -> Vec<String> {
    let name_at = |index: usize| {
        // SAFETY: takes any index; returns null behind the last.
        let name = unsafe { emu_kernel_name(index) };
        if name.is_null() {
            return None;
        }
        // SAFETY: not null, and a literal of the C++ sources, which lives for ever.
        let name = unsafe { CStr::from_ptr(name) };
        Some(name.to_string_lossy().into_owned())
    };
    (0..).map_while(name_at).collect()
}

/// Runs a kernel over its grid, or finds what is wrong with the launch.
///
/// # Errors
/// What the emulator said.
pub(super) fn launch(launch: &SeededLaunch<'_>, mode: Mode) -> Result<(), String> {
    let kernel =
        CString::new(launch.kernel).map_err(|_| "a kernel's name has a zero".to_owned())?;
    let bits: Vec<u64> = launch.arguments.iter().map(|argument| argument.bits()).collect();
    let kinds: Vec<u8> = launch.arguments.iter().map(|argument| letter(*argument)).collect();
    let raw = RawLaunch {
        kernel: kernel.as_ptr(),
        grid: launch.grid,
        num_threads: launch.num_threads,
        shared_bytes: launch.shared_bytes,
        num_arguments: bits.len() as u32,
        arguments: bits.as_ptr(),
        kinds: kinds.as_ptr(),
        seed: launch.seed,
        only_check: u32::from(mode == Mode::OnlyCheck),
    };
    let mut error = [0_u8; 1024];
    // SAFETY: all pointers live through the call and have the lengths beside them; what the kernel touches is the caller's
    // duty, see the head of this file.
    let failed = unsafe { emu_launch(&raw const raw, error.as_mut_ptr().cast(), error.len()) };
    if failed == 0 {
        return Ok(());
    }
    let message = CStr::from_bytes_until_nul(&error).map(CStr::to_string_lossy);
    Err(message.map_or_else(|_| "no message".to_owned(), std::borrow::Cow::into_owned))
}

/// Computes a product whose operands were found inside buffers.
pub(super) fn matmul(product: &Matmul) {
    let raw = RawProduct {
        x: product.x,
        weights: product.weights,
        out: product.out,
        num_rows: product.num_rows,
        cols: product.cols,
        rows: product.rows,
        add: product.store == Store::Add,
    };
    // SAFETY: the caller has checked that the operands lie in buffers and are aligned.
    unsafe { emu_matmul(&raw const raw) }
}

/// As `Kernel::kinds` in `registry.h`.
fn letter(argument: Argument) -> u8 {
    match argument {
        Argument::Pointer(_) => b'p',
        Argument::U32(_) => b'u',
        Argument::F32(_) => b'f',
    }
}
