//! Builds the CUDA kernels where a feature asks for them: for the CPU (`cuda-emulator`), for GPUs (`cuda`).

#[cfg(feature = "cuda-emulator")]
#[path = "build/emulator.rs"]
mod emulator;
#[cfg(feature = "cuda")]
#[path = "build/fatbin.rs"]
mod fatbin;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda-emulator")]
    emulator::build();
    #[cfg(feature = "cuda")]
    fatbin::build();
}
