//! Products with weights: a few rows stream them past our own kernel, many rows go to the device's library, for which codes
//! are widened first.

use std::cell::RefCell;

use half::bf16;

use crate::activation::Activation;
use crate::backend::BackendError;
use crate::checks::Check;
use crate::cuda::codes::CodeForm;
use crate::cuda::device::{Argument, Device, DeviceMemory, Launch, Matmul, Store};
use crate::cuda::matrix::{CudaMatrix, Weights};
use crate::cuda::memory::{CudaBuffer, CudaVector, Elements};
use crate::cuda::rows::{launch_rows, spread_row};
use crate::parts::FeedForward;

/// Rows of weights that a block of `stream_matmul.cu` takes.
const TILE: usize = 16;

/// Codes that a thread widens at a time, the fewest of any form.
const CODES_OF_A_LANE: usize = 8;

/// Threads of a block of `stream_matmul.cu`.
const STREAM_THREADS: u32 = 256;

/// Most rows that stream the weights past: above it, the library's products are bound by flops and not by bytes.
pub(crate) const STREAMED_ROWS_MAX: usize = 64;

/// Room for a matrix of codes as bf16, while a product of many rows reads it. Taken by the first that needs it: the largest
/// step is run before any is served, and steps of graphs are smaller.
#[derive(Debug)]
pub(super) struct WidenRoom<M>(RefCell<Option<(M, usize)>>);

// Not derived: that would ask the same of `M`.
impl<M> Default for WidenRoom<M> {
    fn default() -> Self {
        Self(RefCell::new(None))
    }
}

impl<M: DeviceMemory> WidenRoom<M> {
    /// Returns room for so many elements; `None` where there is no memory for it.
    fn of<D: Device<Memory = M>>(&self, device: &D, len: usize) -> Option<Argument> {
        let mut room = self.0.borrow_mut();
        if room.as_ref().is_none_or(|(_, held)| *held < len) {
            // The smaller room is given back first.
            *room = None;
            *room = Some((device.allocate(len * size_of::<bf16>()).ok()?, len));
        }
        room.as_ref().map(|(memory, _)| Argument::Pointer(memory.address()))
    }
}

/// Room for the results of the two products that are gated by many rows.
#[derive(Debug)]
pub(super) struct GateRoom<M> {
    gates_ups: Option<[CudaBuffer<M>; 2]>,
}

// Not derived: that would ask the same of `M`.
impl<M> Default for GateRoom<M> {
    fn default() -> Self {
        Self { gates_ups: None }
    }
}

impl<M: DeviceMemory> GateRoom<M> {
    /// Returns room for two results of `len` values: what is held, or more.
    fn of<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        len: usize,
    ) -> Result<[Argument; 2], BackendError> {
        let held = self.gates_ups.take().filter(|[gates, _]| gates.len() >= len);
        let new = || CudaBuffer::new(device, len, Elements::F32);
        let room = match held {
            Some(room) => room,
            None => [new()?, new()?],
        };
        let addresses = room.each_ref().map(CudaBuffer::address);
        self.gates_ups = Some(room);
        Ok(addresses)
    }
}

/// What a product does with its sums.
#[derive(Debug)]
pub(super) enum Then<'a, M> {
    /// `out = sum + bias`.
    Bias(Option<&'a CudaVector<M>>),
    /// `out += sum + bias`.
    Add(Option<&'a CudaVector<M>>),
}

impl<'a, M: DeviceMemory> Then<'a, M> {
    fn bias(&self) -> Option<&'a CudaVector<M>> {
        match self {
            Self::Bias(bias) | Self::Add(bias) => *bias,
        }
    }
}

/// The first half of a feed-forward part on a device.
pub(super) type Parts<'a, M> = FeedForward<'a, CudaMatrix<M>, CudaVector<M>>;

/// The operands of a product.
#[derive(Debug)]
pub(super) struct Linear<'a, M> {
    pub(super) check: Check,
    pub(super) num_rows: usize,
    pub(super) x: &'a CudaBuffer<M>,
    pub(super) matrix: &'a CudaMatrix<M>,
    pub(super) widened: &'a WidenRoom<M>,
}

impl<M: DeviceMemory> Linear<'_, M> {
    /// Checks `x`, and returns its address.
    fn x(&self) -> Result<Argument, BackendError> {
        self.check.holds("x", self.x.len(), self.num_rows, self.matrix.cols)?;
        self.x.argument(self.check, "x", Elements::Bf16)
    }

    /// Returns where the library finds the weights; `None` where they are streamed.
    fn library_weights<D: Device<Memory = M>>(&self, device: &D) -> Option<Argument> {
        if self.num_rows <= STREAMED_ROWS_MAX {
            return None;
        }
        match self.matrix.weights {
            Weights::Bf16 => Some(self.matrix.data()),
            Weights::F16 | Weights::F32 => None,
            Weights::Codes(_) => self.widened.of(device, self.matrix.num_widened()?),
        }
    }

    /// Runs the product into `out`, `[num_rows, rows]` f32.
    pub(super) fn run<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        out: &CudaBuffer<M>,
        then: &Then<'_, M>,
    ) -> Result<(), BackendError> {
        self.check.holds("out", out.len(), self.num_rows, self.matrix.rows)?;
        self.check.bias(then.bias().map(CudaVector::len), self.matrix.rows)?;
        let (x, out) = (self.x()?, out.argument(self.check, "out", Elements::F32)?);
        if self.num_rows == 0 {
            return Ok(());
        }
        let Some(weights) = self.library_weights(device) else {
            return self.stream(device, x, out, then);
        };
        let store = match then {
            Then::Bias(None) => Store::Replace,
            Then::Add(None) => Store::Add,
            Then::Bias(Some(bias)) => {
                spread_row(device, "fill_rows", self.num_rows, out, bias)?;
                Store::Add
            }
            Then::Add(Some(bias)) => {
                spread_row(device, "add_rows", self.num_rows, out, bias)?;
                Store::Add
            }
        };
        self.large(device, weights, (x, out), store)
    }

    /// Runs the product by the device's library, after the weights were brought there where they are codes.
    fn large<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        weights: Argument,
        (x, out): (Argument, Argument),
        store: Store,
    ) -> Result<(), BackendError> {
        let matrix = self.matrix;
        if let Weights::Codes(form) = matrix.weights {
            let kernel = format!("widen_{}", form.name());
            let arguments =
                [weights, matrix.data(), matrix.factors(), Argument::U32(matrix.cols as u32)];
            launch_rows(device, &kernel, (matrix.rows, matrix.cols / CODES_OF_A_LANE), &arguments)?;
        }
        device.matmul(&Matmul {
            x: x.bits(),
            weights: weights.bits(),
            out: out.bits(),
            num_rows: self.num_rows,
            cols: matrix.cols,
            rows: matrix.rows,
            store,
        })
    }

    fn stream<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        x: Argument,
        out: Argument,
        then: &Then<'_, M>,
    ) -> Result<(), BackendError> {
        let adds = match then {
            Then::Bias(_) => 0,
            Then::Add(_) => 1,
        };
        let matrix = self.matrix;
        self.launch(
            device,
            "stream_store",
            &[
                out,
                x,
                matrix.data(),
                matrix.factors(),
                address_or_null(then.bias()),
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

    /// Runs `out = activation(x Gᵀ + g) * (x Uᵀ + u)`, the matrix being the gate's; `out` `[num_rows, rows]` is an operand.
    /// `room` gives two buffers of the products' size for those that are not streamed.
    pub(super) fn feed_forward<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        parts: &Parts<'_, M>,
        out: &CudaBuffer<M>,
        room: &mut GateRoom<M>,
    ) -> Result<(), BackendError> {
        let (x, out) = self.check_parts(parts, out)?;
        if self.num_rows == 0 {
            return Ok(());
        }
        let FeedForward { activation, gate, up } = *parts;
        let up_matrix = up.map(|up| up.matrix);
        let gate_bias = address_or_null(gate.bias);
        let up_bias = address_or_null(up.and_then(|up| up.bias));
        let activation = Argument::U32(number_of(activation));
        let Some(weights) = self.library_weights(device) else {
            let arguments = [
                out,
                x,
                gate.matrix.data(),
                gate.matrix.factors(),
                gate_bias,
                up_matrix.map_or(NULL, CudaMatrix::data),
                up_matrix.map_or(NULL, CudaMatrix::factors),
                up_bias,
                Argument::U32(self.num_rows as u32),
                Argument::U32(gate.matrix.rows as u32),
                Argument::U32(gate.matrix.cols as u32),
                activation,
            ];
            return self.launch(device, "stream_gate", &arguments);
        };
        let [gates, mut ups] = room.of(device, self.num_rows * gate.matrix.rows)?;
        self.large(device, weights, (x, gates), Store::Replace)?;
        match up_matrix {
            Some(up) => {
                let up = Linear { matrix: up, ..*self };
                // Of one shape and form with the gate, so that it has room where the gate had; its codes come to the same place.
                let Some(weights) = up.library_weights(device) else {
                    return self.check.refuse("`up` must be widened as the gate is".to_owned());
                };
                up.large(device, weights, (x, ups), Store::Replace)?;
            }
            None => ups = NULL,
        }
        let (rows, cols) = (gate.matrix.rows, Argument::U32(gate.matrix.rows as u32));
        let arguments = [out, gates, gate_bias, ups, up_bias, cols, activation];
        launch_rows(device, "activate_rows", (self.num_rows, rows), &arguments)
    }

    /// Checks the parts against each other, and returns the addresses of `x` and `out`.
    fn check_parts(
        &self,
        parts: &Parts<'_, M>,
        out: &CudaBuffer<M>,
    ) -> Result<(Argument, Argument), BackendError> {
        let (check, gate) = (self.check, parts.gate);
        let CudaMatrix { rows, cols, weights, .. } = gate.matrix;
        let x = self.x()?;
        check.holds("out", out.len(), self.num_rows, *rows)?;
        check.bias(gate.bias.map(CudaVector::len), *rows)?;
        if let Some(up) = parts.up {
            check.same_shape((*rows, *cols), (up.matrix.rows, up.matrix.cols))?;
            check.bias(up.bias.map(CudaVector::len), *rows)?;
            if *weights != up.matrix.weights {
                let (gate, up) = (weights.name(), up.matrix.weights.name());
                return check.refuse(format!("elements of `up` must be {gate}, got {up}"));
            }
        }
        Ok((x, out.argument(check, "out", Elements::Bf16)?))
    }
}

/// `out = activation(gate) * up`, or without the second factor; all `[num_rows, width]`.
pub(super) fn activate<D: Device>(
    device: &mut D,
    (num_rows, width): (usize, usize),
    activation: Activation,
    (gate, up): (&CudaBuffer<D::Memory>, Option<&CudaBuffer<D::Memory>>),
    out: &CudaBuffer<D::Memory>,
) -> Result<(), BackendError> {
    let check = Check("activate");
    check.holds("out", out.len(), num_rows, width)?;
    let sums = |name, buffer: &CudaBuffer<D::Memory>| {
        check.holds(name, buffer.len(), num_rows, width)?;
        buffer.argument(check, name, Elements::F32)
    };
    let arguments = [
        out.argument(check, "out", Elements::Bf16)?,
        sums("gate", gate)?,
        NULL,
        up.map_or(Ok(NULL), |up| sums("up", up))?,
        NULL,
        Argument::U32(width as u32),
        Argument::U32(number_of(activation)),
    ];
    launch_rows(device, "activate_rows", (num_rows, width), &arguments)
}

/// What kernels are given for what is not there.
const NULL: Argument = Argument::Pointer(0);

fn address_or_null<M: DeviceMemory>(vector: Option<&CudaVector<M>>) -> Argument {
    vector.map_or(NULL, CudaVector::address)
}

/// Returns the number that `common.cuh` has for a function.
pub(super) fn number_of(activation: Activation) -> u32 {
    match activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::GeluErf => 2,
    }
}

/// Returns the tokens of the kernel that computes so many rows with the least padding.
fn token_tile(weights: Weights, num_rows: usize) -> usize {
    let sizes: &[usize] = match weights {
        Weights::Bf16 => &[8, 16, 64],
        Weights::Codes(CodeForm::Int8) => &[8, 16, 64],
        Weights::F16 | Weights::F32 | Weights::Codes(_) => &[8, 64],
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
            assert_eq!(token_tile(Weights::Codes(CodeForm::Int8), num_rows), bf16);
            assert_eq!(token_tile(Weights::Codes(CodeForm::Int4), num_rows), f32);
            assert_eq!(token_tile(Weights::F32, num_rows), f32);
        }
    }
}
