//! Products with weights: a few rows stream them past our own kernel, many rows go to the device's library.

use crate::backend::BackendError;
use crate::checks::Check;
use crate::cuda::device::{Argument, Device, DeviceMemory, Launch, Matmul, Store};
use crate::cuda::matrix::{CudaMatrix, Weights};
use crate::cuda::memory::{CudaBuffer, CudaVector, Elements};
use crate::cuda::rows::{fill_rows, silu_mul};

/// Rows of weights that a block of `stream_matmul.cu` takes.
const TILE: usize = 16;

/// Threads of a block of `stream_matmul.cu`.
const STREAM_THREADS: u32 = 256;

/// Most rows that stream the weights past: above it, the library's products are bound by flops and not by bytes.
pub(super) const STREAMED_ROWS_MAX: usize = 64;

/// What a product does with its sums.
#[derive(Debug)]
pub(super) enum Then<'a, M> {
    /// `out = sum + bias`.
    Bias(Option<&'a CudaVector<M>>),
    /// `out += sum`.
    Add,
}

/// The operands of a product.
#[derive(Debug)]
pub(super) struct Linear<'a, M> {
    pub(super) check: Check,
    pub(super) num_rows: usize,
    pub(super) x: &'a CudaBuffer<M>,
    pub(super) matrix: &'a CudaMatrix<M>,
}

impl<M: DeviceMemory> Linear<'_, M> {
    /// Checks `x`, and returns its address.
    fn x(&self) -> Result<Argument, BackendError> {
        self.check.holds("x", self.x.len(), self.num_rows, self.matrix.cols)?;
        self.x.argument(self.check, "x", Elements::Bf16)
    }

    fn is_streamed(&self) -> bool {
        self.num_rows <= STREAMED_ROWS_MAX || self.matrix.weights != Weights::Bf16
    }

    /// Runs the product into `out`, `[num_rows, rows]` f32.
    pub(super) fn run<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        out: &CudaBuffer<M>,
        then: &Then<'_, M>,
    ) -> Result<(), BackendError> {
        self.check.holds("out", out.len(), self.num_rows, self.matrix.rows)?;
        if let Then::Bias(Some(bias)) = then {
            self.check.equal("length of `bias`", bias.len(), self.matrix.rows)?;
        }
        let (x, out) = (self.x()?, out.argument(self.check, "out", Elements::F32)?);
        if self.num_rows == 0 {
            return Ok(());
        }
        if self.is_streamed() {
            return self.stream(device, x, out, then);
        }
        let store = match then {
            Then::Bias(None) => Store::Replace,
            Then::Add => Store::Add,
            Then::Bias(Some(bias)) => {
                fill_rows(device, self.num_rows, out, bias)?;
                Store::Add
            }
        };
        device.matmul(&self.large(x, out, store))
    }

    fn large(&self, x: Argument, out: Argument, store: Store) -> Matmul {
        Matmul {
            x: x.bits(),
            weights: self.matrix.data().bits(),
            out: out.bits(),
            num_rows: self.num_rows,
            cols: self.matrix.cols,
            rows: self.matrix.rows,
            store,
        }
    }

    fn stream<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        x: Argument,
        out: Argument,
        then: &Then<'_, M>,
    ) -> Result<(), BackendError> {
        let (bias, adds) = match then {
            Then::Bias(bias) => (bias.map_or(Argument::Pointer(0), CudaVector::address), 0),
            Then::Add => (Argument::Pointer(0), 1),
        };
        let matrix = self.matrix;
        self.launch(
            device,
            "stream_store",
            &[
                out,
                x,
                matrix.data(),
                matrix.scales(),
                bias,
                Argument::U32(self.num_rows as u32),
                Argument::U32(matrix.rows as u32),
                Argument::U32(matrix.cols as u32),
                Argument::U32(adds),
            ],
        )
    }

    fn launch<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        kernel: &str,
        arguments: &[Argument],
    ) -> Result<(), BackendError> {
        let tokens = token_tile(self.matrix.weights, self.num_rows);
        device.launch(&Launch {
            kernel: &format!("{kernel}_{}_{tokens}", self.matrix.weights.name()),
            grid: [
                self.matrix.rows.div_ceil(TILE) as u32,
                self.num_rows.div_ceil(tokens) as u32,
                1,
            ],
            num_threads: STREAM_THREADS,
            shared_bytes: 0,
            arguments,
        })
    }

    /// Runs `out = silu(x Gᵀ) * (x Uᵀ)`, the matrix being the gate; `out` `[num_rows, rows]` is an operand. `room` gives two
    /// buffers of the products' size for those that are not streamed.
    pub(super) fn gate<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        up: &CudaMatrix<M>,
        out: &CudaBuffer<M>,
        room: impl FnOnce(&mut D, usize) -> Result<[Argument; 2], BackendError>,
    ) -> Result<(), BackendError> {
        let gate = self.matrix;
        self.check.same_shape((gate.rows, gate.cols), (up.rows, up.cols))?;
        self.check.holds("out", out.len(), self.num_rows, gate.rows)?;
        let (x, out) = (self.x()?, out.argument(self.check, "out", Elements::Bf16)?);
        if gate.weights != up.weights {
            let (gate, up) = (gate.weights.name(), up.weights.name());
            return self.check.refuse(format!("elements of `up` must be {gate}, got {up}"));
        }
        if self.num_rows == 0 {
            return Ok(());
        }
        if self.is_streamed() {
            let arguments = [
                out,
                x,
                gate.data(),
                gate.scales(),
                up.data(),
                up.scales(),
                Argument::U32(self.num_rows as u32),
                Argument::U32(gate.rows as u32),
                Argument::U32(gate.cols as u32),
            ];
            return self.launch(device, "stream_gate", &arguments);
        }
        let [gates, ups] = room(device, self.num_rows * gate.rows)?;
        device.matmul(&self.large(x, gates, Store::Replace))?;
        device.matmul(&Linear { matrix: up, ..*self }.large(x, ups, Store::Replace))?;
        silu_mul(device, (self.num_rows, gate.rows), out, [gates, ups])
    }
}

/// Returns the tokens of the kernel that computes so many rows with the least padding.
fn token_tile(weights: Weights, num_rows: usize) -> usize {
    let sizes: &[usize] = match weights {
        Weights::Bf16 | Weights::Int8 => &[8, 16, 64],
        Weights::F16 | Weights::F32 => &[8, 64],
    };
    let fits = sizes.iter().find(|&&size| size >= num_rows);
    fits.copied().unwrap_or(STREAMED_ROWS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_tile_that_holds_all_rows_is_taken() {
        for (num_rows, bf16, f32) in
            [(1, 8, 8), (8, 8, 8), (9, 16, 64), (17, 64, 64), (64, 64, 64), (999, 64, 64)]
        {
            assert_eq!(token_tile(Weights::Bf16, num_rows), bf16);
            assert_eq!(token_tile(Weights::F32, num_rows), f32);
        }
    }
}
