//! Measures the algorithms that cuBLASLt proposes for a shape.

#![expect(unsafe_code, reason = "calls of cuBLASLt")]

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::{CUevent_flags, CUresult};
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, DevicePtr, DriverError, result,
};

use super::super::error::DeviceError;
use super::calls::{Addresses, Handle, Plan, WORKSPACE_BYTES, Workspace};
use crate::cuda::device::Matmul;

/// Timed runs of a candidate after one that is not: the least of them counts, as all noise adds.
const NUM_RUNS: usize = 3;

/// Gives the plan the fastest algorithm for its shape. The product's result is undefined afterwards where it is replaced,
/// and untouched where it is added to.
pub(super) fn choose(
    handle: &Handle,
    workspace: &Workspace,
    stream: &Arc<CudaStream>,
    plan: &mut Plan,
    product: &Matmul,
) -> Result<(), DeviceError> {
    let key = plan.key;
    let candidates =
        plan.candidates(handle).map_err(|error| DeviceError::of_product(key.to_string(), error))?;
    if candidates.len() < 2 {
        return Ok(());
    }
    let failed = |error| DeviceError::of_call(format!("measure the {key}"), error);
    let mut at = Addresses::of(product);
    // A sum cannot be computed twice into the same place. Without memory for another, the first proposal stays.
    let scratch = if key.adds {
        match scratch(stream, key.out_bytes()) {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => return Ok(()),
            other => Some(other.map_err(failed)?),
        }
    } else {
        None
    };
    if let Some(scratch) = &scratch {
        at.out = scratch.device_ptr(stream).0;
    }
    let clock = Clock::new(stream).map_err(failed)?;
    let mut times = Vec::new();
    for &algorithm in &candidates {
        plan.set_algorithm(algorithm);
        // SAFETY: `at` is the product's own, or scratch of the result's size.
        let time = unsafe { measure(handle, workspace, stream, plan, at, &clock) };
        times.push(time.map_err(failed)?);
    }
    let best = fastest(&times).unwrap_or(0);
    plan.set_algorithm(candidates[best]);
    Ok(())
}

fn scratch(stream: &Arc<CudaStream>, num_bytes: u64) -> Result<CudaSlice<u8>, DriverError> {
    let num_bytes = usize::try_from(num_bytes).unwrap_or(usize::MAX);
    // SAFETY: its content does not matter.
    unsafe { stream.alloc::<u8>(num_bytes) }
}

/// Two marks in the stream.
struct Clock {
    start: CudaEvent,
    end: CudaEvent,
}

impl Clock {
    fn new(stream: &CudaStream) -> Result<Self, DriverError> {
        let event = || stream.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        Ok(Self { start: event()?, end: event()? })
    }
}

/// Returns the least time of a few runs in milliseconds; `None` where cuBLASLt cannot run its proposal.
///
/// # Safety
/// As for [`Plan::run`].
unsafe fn measure(
    handle: &Handle,
    workspace: &Workspace,
    stream: &Arc<CudaStream>,
    plan: &Plan,
    at: Addresses,
    clock: &Clock,
) -> Result<Option<f32>, DriverError> {
    let mut least = f32::INFINITY;
    for run in 0..=NUM_RUNS {
        // Clearing it takes the weights' place in the second cache, where they are not in a step either; and it takes
        // the GPU longer than the launch takes the host.
        // SAFETY: the workspace is ours, and nobody expects anything in it.
        unsafe {
            result::memset_d8_async(workspace.address, 0, WORKSPACE_BYTES, stream.cu_stream())
        }?;
        clock.start.record(stream)?;
        // SAFETY: the caller's word.
        let is_launched = unsafe { plan.run(handle, workspace, stream, at) }.is_ok();
        clock.end.record(stream)?;
        let time = clock.start.elapsed_ms(&clock.end)?;
        if !is_launched {
            return Ok(None);
        }
        // The first run may load code.
        if run > 0 {
            least = least.min(time);
        }
    }
    Ok(Some(least))
}

/// Returns the index of the least time; of equal ones the first, which cuBLASLt prefers.
fn fastest(times: &[Option<f32>]) -> Option<usize> {
    let measured = times.iter().enumerate().filter_map(|(index, time)| Some((index, (*time)?)));
    measured.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_that_runs_is_chosen() {
        let rows: [(&[Option<f32>], Option<usize>); 5] = [
            (&[Some(2.0), Some(1.0), Some(3.0)], Some(1)),
            (&[None, Some(4.0), None], Some(1)),
            (&[Some(1.0), Some(1.0)], Some(0)),
            (&[None, None], None),
            (&[], None),
        ];
        for (times, best) in rows {
            assert_eq!(fastest(times), best, "{times:?}");
        }
    }
}
