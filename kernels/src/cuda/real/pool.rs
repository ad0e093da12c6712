//! The driver's pool of memory: what is freed waits in it for the next allocation.
//!
//! By default a pool gives all back whenever the host waits for the stream, and the next allocation has it mapped again,
//! which takes far longer than finding it in the pool. Rooms that grow with the steps would pay that each time.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUmemoryPool};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError};

/// Bytes that the pool keeps of what is free: the rooms of a step, but no weights and no cache.
const KEPT_BYTES: u64 = 256 << 20;

/// Has the pool keep some of what is freed.
pub(super) fn keep_freed(context: &CudaContext) -> Result<(), DriverError> {
    let Some(pool) = of(context)? else { return Ok(()) };
    let mut kept = KEPT_BYTES;
    let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's own, and this attribute is 64 bits.
    unsafe { mem_pool::set_attribute(pool, threshold, (&raw mut kept).cast()) }
}

/// Gives back to the driver what waits in the pool, so that its count of free bytes is right.
pub(super) fn give_back(context: &CudaContext) -> Result<(), DriverError> {
    let Some(pool) = of(context)? else { return Ok(()) };
    // SAFETY: the pool is the device's own.
    unsafe { mem_pool::trim_to(pool, 0) }
}

/// Returns the pool that allocations come from; `None` where the device has none, and they are made one by one.
fn of(context: &CudaContext) -> Result<Option<CUmemoryPool>, DriverError> {
    if !context.has_async_alloc() {
        return Ok(None);
    }
    // SAFETY: the device is the context's.
    unsafe { device::get_default_mem_pool(context.cu_device()) }.map(Some)
}
