//! GPUs: our kernels over a small device interface, with a real and an emulated implementation.

pub mod device;
#[cfg(feature = "cuda-emulator")]
pub mod emulated;
#[cfg(feature = "cuda")]
pub mod real;
