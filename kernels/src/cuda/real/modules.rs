//! Our kernels on the GPU: loaded when it is opened, found by name, launched with checked parameters.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::{
    self, CUfunction_attribute_enum as Attribute, CUresult,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DriverError, result,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;

use super::error::DeviceError;
use crate::cuda::device::{Argument, DeviceFacts, Launch};

/// A compiled source file.
struct Fatbin {
    /// Such as `norm.cu`.
    file: &'static str,
    bytes: &'static [u8],
    /// The names of its kernels.
    kernels: &'static [&'static str],
}

/// All of `kernels/cuda/`, as `build/fatbin.rs` compiled it.
static FATBINS: &[Fatbin] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// Shared memory that a block may have without a word to the driver, static and dynamic, in bytes.
const SHARED_BYTES_DEFAULT: u32 = 48 * 1024;
/// More than any kernel of ours has; they lie on the stack for a launch.
const PARAMETERS_MAX: usize = 32;

/// Every kernel by its name.
#[derive(Debug)]
pub(super) struct Kernels {
    by_name: HashMap<&'static str, Kernel>,
}

#[derive(Debug)]
struct Kernel {
    /// Keeps its module loaded.
    function: CudaFunction,
    /// The size of each parameter.
    parameter_bytes: Vec<usize>,
    /// Dynamic shared memory that the driver lets a block have.
    shared_bytes_max: u32,
}

impl Kernels {
    /// Loads all kernels, so that no launch has to.
    pub(super) fn load(
        context: &Arc<CudaContext>,
        facts: &DeviceFacts,
    ) -> Result<Self, DeviceError> {
        let mut by_name = HashMap::new();
        for fatbin in FATBINS {
            let module = context
                .load_module(Ptx::from_binary(fatbin.bytes.to_vec()))
                .map_err(|error| load_error(facts, fatbin.file, error))?;
            for &name in fatbin.kernels {
                let kernel = module.load_function(name).and_then(Kernel::new).map_err(|error| {
                    DeviceError::of_call(format!("load kernel `{name}`"), error)
                })?;
                by_name.insert(name, kernel);
            }
        }
        Ok(Self { by_name })
    }

    /// Launches a kernel on the stream.
    pub(super) fn launch(
        &mut self,
        stream: &CudaStream,
        launch: &Launch<'_>,
    ) -> Result<(), DeviceError> {
        let Some(kernel) = self.by_name.get_mut(launch.kernel) else {
            return Err(DeviceError::Refused(format!(
                "no kernel `{}` is in this program: see that kernels/cuda/ has it and build again",
                launch.kernel
            )));
        };
        let mut bits = pack(launch, &kernel.parameter_bytes)?;
        let mut pointers = bits.each_mut().map(|value| std::ptr::from_mut(value).cast::<c_void>());
        let parameters = &mut pointers[..launch.arguments.len()];
        let [x, y, z] = launch.grid;
        let failed = |error| DeviceError::of_call(launch_text(launch), error);
        stream.context().bind_to_thread().map_err(failed)?;
        kernel.allow_shared(launch.shared_bytes).map_err(failed)?;
        let block = (launch.num_threads, 1, 1);
        let function = kernel.function.cu_function();
        // SAFETY: the function's module is loaded, and there is a value of the right size for each parameter; the driver
        // copies them before it returns. What the kernel may touch is the caller's word.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                block,
                launch.shared_bytes,
                stream.cu_stream(),
                parameters,
            )
        }
        .map_err(failed)
    }
}

impl Kernel {
    fn new(function: CudaFunction) -> Result<Self, DriverError> {
        // The driver may put this off until the first launch, which may be in a capture.
        // SAFETY: the function's module is loaded.
        unsafe { sys::cuFuncLoad(function.cu_function()) }.result()?;
        let static_bytes = u32::try_from(function.shared_size_bytes()?).unwrap_or(0);
        let shared_bytes_max = SHARED_BYTES_DEFAULT.saturating_sub(static_bytes);
        let parameter_bytes = parameter_bytes(&function)?;
        Ok(Self { function, parameter_bytes, shared_bytes_max })
    }

    /// Tells the driver that blocks have this much dynamic shared memory, where it was not told of as much yet.
    fn allow_shared(&mut self, num_bytes: u32) -> Result<(), DriverError> {
        if num_bytes <= self.shared_bytes_max {
            return Ok(());
        }
        let value = i32::try_from(num_bytes).unwrap_or(i32::MAX);
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        self.function.set_attribute(attribute, value)?;
        self.shared_bytes_max = num_bytes;
        Ok(())
    }
}

/// Returns the size of each of a kernel's parameters.
fn parameter_bytes(function: &CudaFunction) -> Result<Vec<usize>, DriverError> {
    let mut sizes = Vec::new();
    loop {
        let (mut offset, mut size) = (0, 0);
        let (offset, size_at) = (&raw mut offset, &raw mut size);
        // SAFETY: the function's module is loaded, and the driver writes two `size_t`.
        let code = unsafe {
            sys::cuFuncGetParamInfo(function.cu_function(), sizes.len(), offset, size_at)
        };
        // The driver's only way to say that there are no more.
        if code == CUresult::CUDA_ERROR_INVALID_VALUE {
            return Ok(sizes);
        }
        code.result()?;
        sizes.push(size);
    }
}

/// Returns the parameters as a kernel reads them, each from the first byte of its own word.
fn pack(
    launch: &Launch<'_>,
    parameter_bytes: &[usize],
) -> Result<[u64; PARAMETERS_MAX], DeviceError> {
    let sizes = || launch.arguments.iter().map(|&argument| num_bytes(argument));
    if launch.arguments.len() > PARAMETERS_MAX || !sizes().eq(parameter_bytes.iter().copied()) {
        return Err(DeviceError::Refused(format!(
            "kernel `{}` takes parameters of {parameter_bytes:?} bytes, at most {PARAMETERS_MAX}, got {:?}: its `.cu` and its launch differ",
            launch.kernel,
            sizes().collect::<Vec<_>>()
        )));
    }
    let mut bits = [0; PARAMETERS_MAX];
    for (bits, argument) in bits.iter_mut().zip(launch.arguments) {
        // CUDA's hosts are little-endian, so a short value's bytes come first.
        *bits = argument.bits();
    }
    Ok(bits)
}

fn num_bytes(argument: Argument) -> usize {
    match argument {
        Argument::Pointer(_) => 8,
        Argument::U32(_) | Argument::F32(_) => 4,
    }
}

fn launch_text(launch: &Launch<'_>) -> String {
    format!(
        "launch of `{}` on {:?} blocks of {} threads with {} bytes of shared memory",
        launch.kernel, launch.grid, launch.num_threads, launch.shared_bytes
    )
}

/// Returns why a module could not be loaded.
fn load_error(facts: &DeviceFacts, file: &'static str, error: DriverError) -> DeviceError {
    match error.0 {
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUresult::CUDA_ERROR_INVALID_PTX
        | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | CUresult::CUDA_ERROR_JIT_COMPILATION_DISABLED
        | CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => DeviceError::NoImage {
            name: facts.name.clone(),
            capability: facts.capability,
            file,
            said: format!("{:?}", error.0),
        },
        _ => DeviceError::of_call(format!("load the kernels of {file}"), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(arguments: &[Argument]) -> Launch<'_> {
        Launch { kernel: "scale", grid: [1, 2, 3], num_threads: 128, shared_bytes: 0, arguments }
    }

    #[test]
    fn parameters_begin_at_the_first_byte_of_their_word() {
        let arguments =
            [Argument::Pointer(0x1122_3344_5566_7788), Argument::F32(1.5), Argument::U32(7)];
        let bits = pack(&launch(&arguments), &[8, 4, 4]).unwrap();
        let bytes = bits.map(u64::to_ne_bytes);
        assert_eq!(bytes[0], 0x1122_3344_5566_7788_u64.to_ne_bytes());
        assert_eq!(bytes[1][..4], 1.5_f32.to_ne_bytes());
        assert_eq!(bytes[2][..4], 7_u32.to_ne_bytes());
        assert_eq!(bits[3..], [0; PARAMETERS_MAX - 3]);
    }

    #[test]
    fn parameters_of_other_number_or_size_are_refused() {
        let arguments = [Argument::Pointer(256), Argument::U32(7)];
        for sizes in [&[8, 8][..], &[8], &[8, 4, 4], &[]] {
            let error = pack(&launch(&arguments), sizes).unwrap_err().to_string();
            assert!(error.contains("`scale`") && error.contains("[8, 4]"), "{error}");
        }
        let many = [Argument::U32(0); PARAMETERS_MAX + 1];
        pack(&launch(&many), &[4; PARAMETERS_MAX + 1]).unwrap_err();
        pack(&launch(&[]), &[]).unwrap();
    }

    #[test]
    fn kernels_are_named_once() {
        let mut names: Vec<&str> =
            FATBINS.iter().flat_map(|fatbin| fatbin.kernels).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(FATBINS.iter().all(|fatbin| !fatbin.bytes.is_empty() && !fatbin.file.is_empty()));
    }
}
