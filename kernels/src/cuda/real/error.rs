//! What a GPU refuses, in words: what was found and what to do about it.

use candle_core::cuda_backend::cudarc::cublaslt::result::CublasError;
use candle_core::cuda_backend::cudarc::driver::DriverError;
use candle_core::cuda_backend::cudarc::driver::sys::CUresult;

use crate::backend::BackendError;

/// The oldest driver that runs our code: nvcc 13.0 made it.
pub(super) const DRIVER_MIN: (u32, u32) = (13, 0);
/// The oldest GPU that has what the kernels use: bf16 on tensor cores, asynchronous copies.
pub(super) const CAPABILITY_MIN: (u32, u32) = (8, 0);

/// Why a GPU cannot be used, or what it failed at.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver is not there or does not start.
    #[error(
        "NVIDIA's driver does not start ({said}): install release 580 or newer, see that `nvidia-smi` works, and start a container with its GPUs (`--gpus all`)"
    )]
    NoDriver {
        /// The driver's words.
        said: String,
    },
    /// The toolkit's library for linking was found instead of the driver's.
    #[error(
        "the `libcuda.so.1` that was loaded is the toolkit's stub: take its folder `stubs` out of LD_LIBRARY_PATH, so that the driver's own is found"
    )]
    StubLibrary,
    /// The driver is too old for the code in this program.
    #[error(
        "the driver supports CUDA {}.{}, but {}.{} is needed: install release 580 or newer",
        found.0, found.1, DRIVER_MIN.0, DRIVER_MIN.1
    )]
    OldDriver {
        /// The CUDA version that the driver supports.
        found: (u32, u32),
    },
    /// There is no GPU.
    #[error(
        "the driver sees no GPU: see what `nvidia-smi -L` lists, and that CUDA_VISIBLE_DEVICES does not hide it"
    )]
    NoDevice,
    /// There are GPUs, but not this one.
    #[error("there is no cuda:{ordinal}: the driver sees {}", devices(*num_devices))]
    NoSuchDevice {
        /// What was asked for.
        ordinal: usize,
        /// How many there are.
        num_devices: usize,
    },
    /// The GPU lacks what the kernels need.
    #[error(
        "{name} has compute capability {}.{}, but {}.{} is needed (Ampere or newer): use another GPU or the CPU",
        capability.0, capability.1, CAPABILITY_MIN.0, CAPABILITY_MIN.1
    )]
    OldDevice {
        /// Its product name.
        name: String,
        /// Its compute capability.
        capability: (u32, u32),
    },
    /// The program's kernels have no form that the GPU runs.
    #[error(
        "the kernels of {file} cannot be loaded on {name}, compute capability {}.{} ({said}): build with CUDA_COMPUTE_CAP={}{}, or without it for all GPUs",
        capability.0, capability.1, capability.0, capability.1
    )]
    NoImage {
        /// The GPU's name.
        name: String,
        /// Its compute capability.
        capability: (u32, u32),
        /// The kernels' source.
        file: &'static str,
        /// The driver's words.
        said: String,
    },
    /// Memory for what the device itself needs could not be had.
    #[error(
        "{what}: the GPU has no memory left: end other programs that use it (`nvidia-smi` lists them)"
    )]
    OutOfMemory {
        /// What was asked for.
        what: String,
    },
    /// A call of the driver or a library failed.
    #[error("{what}: {said}")]
    Call {
        /// What was asked for.
        what: String,
        /// What was said to it.
        said: String,
    },
    /// Several GPUs were asked for, of a build that cannot sum over them.
    #[error("this build computes on one GPU: build with `--features nccl` for several")]
    WithoutNccl,
    /// The library that sums over GPUs is not there.
    #[error(
        "several GPUs need NCCL, and libnccl.so.2 cannot be loaded ({said}): install NVIDIA's package libnccl2, or put its folder into LD_LIBRARY_PATH"
    )]
    NoNccl {
        /// The loader's words.
        said: String,
    },
    /// The library that sums over GPUs is too old.
    #[error(
        "several GPUs need NCCL {} or newer, found {}: install NVIDIA's package libnccl2 of this CUDA", nccl_version(*needed), nccl_version(*found)
    )]
    OldNccl {
        /// Its version, as it writes it.
        found: i32,
        /// The oldest that would do.
        needed: i32,
    },
    /// What was asked for breaks a rule.
    #[error("{0}")]
    Refused(String),
}

impl DeviceError {
    /// Returns why the driver did not start.
    pub(super) fn of_start(code: CUresult) -> Self {
        match code {
            CUresult::CUDA_ERROR_STUB_LIBRARY => Self::StubLibrary,
            CUresult::CUDA_ERROR_NO_DEVICE => Self::NoDevice,
            other => Self::NoDriver { said: format!("{other:?}{}", advice(other)) },
        }
    }

    /// Returns that a call of the driver failed.
    pub(super) fn of_call(what: impl Into<String>, error: DriverError) -> Self {
        let what = what.into();
        if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            return Self::OutOfMemory { what };
        }
        let explanation = match error.error_string() {
            Ok(text) => format!(" ({})", text.to_string_lossy()),
            Err(_) => String::new(),
        };
        Self::Call { what, said: format!("{:?}{explanation}{}", error.0, advice(error.0)) }
    }

    /// Returns that a call of cuBLASLt failed.
    pub(super) fn of_product(what: impl Into<String>, error: CublasError) -> Self {
        Self::Call { what: what.into(), said: format!("{:?}", error.0) }
    }

    /// Returns the error that callers of the backend see.
    pub(super) fn on(self, device: &str) -> BackendError {
        BackendError::Device { device: device.to_owned(), what: self.to_string() }
    }
}

impl From<DeviceError> for BackendError {
    fn from(error: DeviceError) -> Self {
        error.on("cuda")
    }
}

/// Returns what helps against some failures, to be put behind their name; else nothing.
fn advice(code: CUresult) -> &'static str {
    match code {
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            ": the driver's library and its kernel module have different versions, restart the machine"
        }
        CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            ": a forward-compatible libcuda does not support this GPU, take /usr/local/cuda/compat out of LD_LIBRARY_PATH"
        }
        CUresult::CUDA_ERROR_SYSTEM_NOT_READY => {
            ": the machine is not ready, see that nvidia-fabricmanager runs"
        }
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => {
            ": another process has the GPU for itself, or its compute mode forbids any"
        }
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE => ": the GPU's memory is faulty, drain it",
        CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => {
            ": the driver's libnvidia-ptxjitcompiler.so.1 is missing"
        }
        _ => "",
    }
}

/// Returns major and minor of a version as NCCL has written it since 2.9, `10000 * major + 100 * minor`; older ones had a
/// digit less.
fn nccl_version(version: i32) -> String {
    let major = if version < 10_000 { 1000 } else { 10_000 };
    format!("{}.{}", version / major, version % major / 100)
}

fn devices(num_devices: usize) -> String {
    match num_devices {
        0 | 1 => "only cuda:0".to_owned(),
        _ => format!("cuda:0 to cuda:{}", num_devices - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: &DeviceError, words: &[&str]) {
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
        assert!(!text.ends_with('.') && !text.contains("  "), "{text:?}");
    }

    #[test]
    fn a_driver_that_does_not_start_is_told_by_its_code() {
        check(&DeviceError::of_start(CUresult::CUDA_ERROR_NO_DEVICE), &["no GPU", "nvidia-smi"]);
        check(
            &DeviceError::of_start(CUresult::CUDA_ERROR_STUB_LIBRARY),
            &["stub", "LD_LIBRARY_PATH"],
        );
        let mismatch = CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH;
        check(&DeviceError::of_start(mismatch), &["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart"]);
        check(&DeviceError::of_start(CUresult::CUDA_ERROR_UNKNOWN), &["CUDA_ERROR_UNKNOWN", "580"]);
    }

    #[test]
    fn refusals_say_what_was_found_and_what_to_do() {
        check(&DeviceError::OldDriver { found: (12, 8) }, &["CUDA 12.8", "13.0", "580"]);
        check(
            &DeviceError::NoSuchDevice { ordinal: 3, num_devices: 2 },
            &["no cuda:3", "cuda:0 to cuda:1"],
        );
        check(
            &DeviceError::NoSuchDevice { ordinal: 1, num_devices: 1 },
            &["no cuda:1", "only cuda:0"],
        );
        let name = "NVIDIA T4".to_owned();
        check(&DeviceError::OldDevice { name, capability: (7, 5) }, &["NVIDIA T4", "7.5", "8.0"]);
        let said = "CUDA_ERROR_NO_BINARY_FOR_GPU".to_owned();
        let image = DeviceError::NoImage {
            name: "NVIDIA X".to_owned(),
            capability: (12, 0),
            file: "norm.cu",
            said,
        };
        check(&image, &["norm.cu", "NVIDIA X", "12.0", "CUDA_COMPUTE_CAP=120"]);
    }

    #[test]
    fn several_gpus_need_a_library_that_is_there_and_new() {
        check(&DeviceError::WithoutNccl, &["--features nccl"]);
        let said = "libnccl.so.2: cannot open shared object file".to_owned();
        check(&DeviceError::NoNccl { said }, &["cannot open", "libnccl2", "LD_LIBRARY_PATH"]);
        check(&DeviceError::OldNccl { found: 2804, needed: 21_100 }, &["NCCL 2.11", "found 2.8"]);
        check(&DeviceError::OldNccl { found: 21_003, needed: 21_100 }, &["found 2.10"]);
    }

    #[test]
    fn a_refusal_becomes_an_error_of_the_backend() {
        let error = DeviceError::Refused("it is full".to_owned()).on("cuda:0 (NVIDIA H200)");
        assert_eq!(error.to_string(), "cuda:0 (NVIDIA H200): it is full");
    }
}
