//! cuBLASLt's objects as owned values, and its calls on them.
//!
//! cuBLASLt counts columns first, so it is asked for the transposed result: `outᵀ = W xᵀ`, where our row-major `W`
//! `[rows, cols]` is its `[cols, rows]`, transposed, our `x` is its `[cols, num_rows]`, and our `out` its `[rows, num_rows]`.

#![expect(unsafe_code, reason = "calls of cuBLASLt")]

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::super::error::DeviceError;
use super::plan::PlanKey;
use crate::cuda::device::Matmul;

/// What NVIDIA recommends for Hopper; more candidates fit than in the 4 MiB that older GPUs are said to need.
///
/// # Source
/// cuBLAS's documentation, `cublasSetWorkspace`.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;
/// Proposals that are measured: the first is cuBLASLt's own choice.
const NUM_CANDIDATES: u8 = 8;

/// Memory for the inner work of all products, one after the other.
#[derive(Debug)]
pub(super) struct Workspace {
    /// Keeps the memory.
    _memory: CudaSlice<u8>,
    pub(super) address: u64,
}

impl Workspace {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self, DeviceError> {
        // SAFETY: nobody reads it who has not written to it.
        let memory = unsafe { stream.alloc::<u8>(WORKSPACE_BYTES) }
            .map_err(|error| DeviceError::of_call("workspace of 32 MiB for products", error))?;
        let address = memory.device_ptr(stream).0;
        Ok(Self { _memory: memory, address })
    }
}

/// The library's state.
#[derive(Debug)]
pub(super) struct Handle(sys::cublasLtHandle_t);

// SAFETY: the library's documentation lets any thread use a handle.
unsafe impl Send for Handle {}

impl Handle {
    pub(super) fn new() -> Result<Self, DeviceError> {
        let handle = result::create_handle()
            .map_err(|error| DeviceError::of_product("start of cuBLASLt", error))?;
        Ok(Self(handle))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created by us and destroyed once. A failure leaves nothing to be done.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// Where a product's matrices are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) x: u64,
    pub(super) weights: u64,
    pub(super) out: u64,
}

impl Addresses {
    pub(super) fn of(product: &Matmul) -> Self {
        Self { x: product.x, weights: product.weights, out: product.out }
    }
}

/// A shape that can be computed.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) key: PlanKey,
    operation: Operation,
    weights: Layout,
    x: Layout,
    out: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Plan {
    /// Describes a shape, with the algorithm that cuBLASLt thinks best.
    pub(super) fn new(handle: &Handle, key: PlanKey) -> Result<Self, DeviceError> {
        let describe = || -> Result<Self, CublasError> {
            let bf16 = sys::cudaDataType_t::CUDA_R_16BF;
            let f32 = sys::cudaDataType_t::CUDA_R_32F;
            Ok(Self {
                key,
                operation: Operation::new()?,
                weights: Layout::new(bf16, key.cols, key.rows)?,
                x: Layout::new(bf16, key.cols, key.num_rows)?,
                out: Layout::new(f32, key.rows, key.num_rows)?,
                algorithm: NO_ALGORITHM,
            })
        };
        let failed = |error| DeviceError::of_product(key.to_string(), error);
        let mut plan = describe().map_err(failed)?;
        let candidates = plan.candidates(handle).map_err(failed)?;
        let unsupported = CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
        plan.algorithm = *candidates.first().ok_or_else(|| failed(unsupported))?;
        Ok(plan)
    }

    pub(super) fn algorithm(&self) -> sys::cublasLtMatmulAlgo_t {
        self.algorithm
    }

    pub(super) fn set_algorithm(&mut self, algorithm: sys::cublasLtMatmulAlgo_t) {
        self.algorithm = algorithm;
    }

    /// Takes an algorithm that was chosen for another shape, and returns whether it can compute this one.
    pub(super) fn accept(&mut self, handle: &Handle, algorithm: sys::cublasLtMatmulAlgo_t) -> bool {
        let mut found = NO_RESULT;
        let found_at = &raw mut found;
        // SAFETY: the plan's objects live, the algorithm came from the library, and it writes one result.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                handle.0,
                self.operation.0,
                self.weights.0,
                self.x.0,
                self.out.0,
                self.out.0,
                &raw const algorithm,
                found_at,
            )
        };
        let fits = status.result().is_ok() && found.workspaceSize <= WORKSPACE_BYTES;
        if fits {
            self.algorithm = algorithm;
        }
        fits
    }

    /// Returns the algorithms that cuBLASLt proposes, its favourite first.
    pub(super) fn candidates(
        &self,
        handle: &Handle,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CublasError> {
        let preference = Preference::new(self.key.alignment)?;
        let mut found = [NO_RESULT; NUM_CANDIDATES as usize];
        let mut num_found = 0;
        let num_found_at = &raw mut num_found;
        // SAFETY: the plan's objects live, and `found` has room for as many results as are asked for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle.0,
                self.operation.0,
                self.weights.0,
                self.x.0,
                self.out.0,
                self.out.0,
                preference.0,
                NUM_CANDIDATES.into(),
                found.as_mut_ptr(),
                num_found_at,
            )
        };
        // "Nothing found" may be either.
        if status != sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED {
            status.result()?;
        }
        let num_found = usize::try_from(num_found).unwrap_or(0).min(found.len());
        let usable = found[..num_found].iter().filter(|found| found.state.result().is_ok());
        Ok(usable.map(|found| found.algo).collect())
    }

    /// Launches the product.
    ///
    /// # Safety
    /// The addresses are of memory on the stream's device, with the plan's shapes, that nothing else uses meanwhile.
    pub(super) unsafe fn run(
        &self,
        handle: &Handle,
        workspace: &Workspace,
        stream: &CudaStream,
        at: Addresses,
    ) -> Result<(), DeviceError> {
        let alpha = 1.0_f32;
        let beta = if self.key.adds { 1.0_f32 } else { 0.0 };
        let out = pointer(at.out);
        // SAFETY: the plan's objects and the workspace live as long as the device; the factors are read before the call
        // returns, as they lie on the host; the rest is the caller's word.
        unsafe {
            result::matmul(
                handle.0,
                self.operation.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                pointer(at.weights),
                self.weights.0,
                pointer(at.x),
                self.x.0,
                out,
                self.out.0,
                out,
                self.out.0,
                &raw const self.algorithm,
                pointer(workspace.address),
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        }
        .map_err(|error| DeviceError::of_product(self.key.to_string(), error))
    }
}

/// A place for an algorithm that is not chosen yet.
const NO_ALGORITHM: sys::cublasLtMatmulAlgo_t = sys::cublasLtMatmulAlgo_t { data: [0; 8] };

/// A place for a proposal.
const NO_RESULT: sys::cublasLtMatmulHeuristicResult_t = sys::cublasLtMatmulHeuristicResult_t {
    algo: NO_ALGORITHM,
    workspaceSize: 0,
    state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
    wavesCount: 0.0,
    reserved: [0; 4],
};

/// Returns a device's address as the library takes it.
fn pointer(address: u64) -> *mut c_void {
    ptr::without_provenance_mut(address as usize)
}

/// What is computed: a product of the first matrix transposed, with sums in f32.
#[derive(Debug)]
struct Operation(sys::cublasLtMatmulDesc_t);

// SAFETY: a description of values, which no thread owns.
unsafe impl Send for Operation {}

impl Operation {
    fn new() -> Result<Self, CublasError> {
        let operation = Self(result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType_t::CUDA_R_32F,
        )?);
        // `CUBLAS_OP_T`; the default of the second matrix is `CUBLAS_OP_N`, which is 0.
        let transposed = 1_i32;
        // SAFETY: the description lives, and the attribute is an `int32_t`.
        unsafe {
            result::set_matmul_desc_attribute(
                operation.0,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const transposed).cast(),
                size_of::<i32>(),
            )
        }?;
        Ok(operation)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: created by us and destroyed once. A failure leaves nothing to be done.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// A matrix without gaps, columns first.
#[derive(Debug)]
struct Layout(sys::cublasLtMatrixLayout_t);

// SAFETY: a description of values, which no thread owns.
unsafe impl Send for Layout {}

impl Layout {
    fn new(element: sys::cudaDataType_t, rows: u64, cols: u64) -> Result<Self, CublasError> {
        let leading = i64::try_from(rows).unwrap_or(i64::MAX);
        Ok(Self(result::create_matrix_layout(element, rows, cols, leading)?))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created by us and destroyed once. A failure leaves nothing to be done.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What an algorithm may count on.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new(alignment: u32) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Self(result::create_matmul_pref()?);
        let workspace = WORKSPACE_BYTES as u64;
        let attribute = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        preference.set(attribute, &workspace)?;
        for attribute in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(attribute, &alignment)?;
        }
        Ok(preference)
    }

    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> Result<(), CublasError> {
        let value_at = ptr::from_ref(value).cast();
        // SAFETY: the preference lives; the library copies the value and refuses one of another size.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, value_at, size_of::<T>()) }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created by us and destroyed once. A failure leaves nothing to be done.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
