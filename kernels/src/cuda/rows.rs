//! Launches of the kernels that take a row a block.

use crate::backend::BackendError;
use crate::cuda::device::{Argument, Device, Launch};
use crate::cuda::memory::CudaVector;

/// Widest block: more threads than a row has elements would idle.
const THREADS_MAX: usize = 512;

/// Launches `kernel` with a block for each of `num_rows` rows of `cols` elements.
pub(super) fn launch_rows<D: Device>(
    device: &mut D,
    kernel: &str,
    (num_rows, cols): (usize, usize),
    arguments: &[Argument],
) -> Result<(), BackendError> {
    if num_rows == 0 || cols == 0 {
        return Ok(());
    }
    device.launch(&Launch {
        kernel,
        grid: [num_rows as u32, 1, 1],
        num_threads: cols.next_multiple_of(32).min(THREADS_MAX) as u32,
        shared_bytes: 0,
        arguments,
    })
}

/// Runs `kernel`, `fill_rows` or `add_rows`, which brings `row` to each of `num_rows` rows of `out`.
pub(super) fn spread_row<D: Device>(
    device: &mut D,
    kernel: &str,
    num_rows: usize,
    out: Argument,
    row: &CudaVector<D::Memory>,
) -> Result<(), BackendError> {
    let cols = row.len();
    let arguments = [out, row.address(), Argument::U32(cols as u32)];
    launch_rows(device, kernel, (num_rows, cols), &arguments)
}
