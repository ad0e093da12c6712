//! Adapters on a device: two products over tokens that are grouped by adapter, the second added to what the layer computed.
//!
//! An adapter is an expert of low rank and a token has one at most, so that these are the kernels of mixtures. Matrices are
//! rounded to bf16, and so is what `A` makes of a token.

use half::bf16;

use crate::allocate;
use crate::backend::{BackendError, DType, MatrixData, StepRows, WeightFormat};
use crate::checks::Check;
use crate::cuda::CudaBackend;
use crate::cuda::device::{Argument, Device};
use crate::cuda::grouped::{Grouped, GroupedProduct, TILE_ROWS, Wanted};
use crate::cuda::matrix::{CudaMatrix, Weights};
use crate::cuda::memory::{CudaBuffer, Elements};
use crate::cuda::step::{CudaStep, Demand, StepArray};
use crate::lora::{Lora, LoraPair, LoraShape, PairShape};
use crate::widen::for_each_widened;

/// The room of adapters on a device.
#[derive(Debug)]
pub struct CudaLora<M> {
    shape: LoraShape,
    max_num_tokens: usize,
    grouped: Grouped<M>,
    /// The pairs of the step that was grouped last.
    wanted: Option<Wanted>,
    /// `[num_tokens, rank]`
    low: CudaBuffer<M>,
}

/// What all adapters add to a product.
#[derive(Debug)]
pub struct CudaPairs<M> {
    shape: PairShape,
    /// `[num_adapters * rank, cols]`
    down: CudaMatrix<M>,
    /// `[num_adapters * rows, rank]`
    up: CudaMatrix<M>,
}

/// Returns the memory that the pairs of a product take, one an adapter, in the device's layout.
///
/// # Units
/// bytes
pub fn pairs_bytes(num_adapters: usize, rank: usize, rows: usize, cols: usize) -> u64 {
    (num_adapters * rank * (rows + cols) * size_of::<bf16>()) as u64
}

impl<D: Device> Lora<CudaBackend<D>> for CudaLora<D::Memory> {
    type Pairs = CudaPairs<D::Memory>;

    fn new(
        backend: &mut CudaBackend<D>,
        shape: &LoraShape,
        max_num_tokens: usize,
    ) -> Result<Self, BackendError> {
        let device = &backend.device;
        let low_len = max_num_tokens.saturating_mul(shape.max_rank);
        Ok(Self {
            shape: *shape,
            max_num_tokens,
            grouped: Grouped::new(device, shape.num_adapters, max_num_tokens)?,
            wanted: None,
            low: CudaBuffer::new(device, low_len, Elements::Bf16)?,
        })
    }

    fn pairs(
        &self,
        backend: &mut CudaBackend<D>,
        pairs: &[LoraPair<'_>],
    ) -> Result<CudaPairs<D::Memory>, BackendError> {
        let shape = self.shape.check_pairs(pairs)?;
        let downs: Vec<_> = pairs.iter().map(|pair| pair.down).collect();
        let ups: Vec<_> = pairs.iter().map(|pair| pair.up).collect();
        Ok(CudaPairs {
            shape,
            down: rounded(&backend.device, &downs)?,
            up: rounded(&backend.device, &ups)?,
        })
    }

    fn group(
        &mut self,
        backend: &mut CudaBackend<D>,
        step: &CudaStep<D::Memory>,
    ) -> Result<(), BackendError> {
        let (check, StepRows { num_tokens, .. }) = (Check("adapters"), step.rows());
        check.at_most("tokens of the step", num_tokens, self.max_num_tokens)?;
        step.require(check, Demand::Adapters(self.shape.num_adapters))?;
        let matrices = step.array(StepArray::Adapters);
        let wanted = Wanted { matrices, num_tokens, num_pairs: num_tokens };
        self.wanted = Some(wanted);
        self.grouped.group(&mut backend.device, wanted)
    }

    fn add(
        &mut self,
        backend: &mut CudaBackend<D>,
        x: &CudaBuffer<D::Memory>,
        pairs: &CudaPairs<D::Memory>,
        out: &mut CudaBuffer<D::Memory>,
    ) -> Result<(), BackendError> {
        let check = Check("adapters");
        let Some(wanted) = self.wanted else {
            return check.refuse("tokens must be grouped first".to_owned());
        };
        let PairShape { rank, rows, cols } = pairs.shape;
        check.holds("x", x.len(), wanted.num_tokens, cols)?;
        check.holds("out", out.len(), wanted.num_tokens, rows)?;
        let x = x.argument(check, "x", Elements::Bf16)?;
        let out = out.argument(check, "out", Elements::F32)?;
        let low = self.low.address();
        let mut run = |what, operands: [Argument; 3], rows: usize, cols: usize| {
            let numbers = [rows as u32, cols as u32];
            let product = GroupedProduct {
                what,
                weights: Weights::Bf16,
                operands: &operands,
                numbers: &numbers,
                rows,
                tile_rows: TILE_ROWS,
            };
            self.grouped.run(&mut backend.device, wanted, &product)
        };
        // x [num_tokens, cols] -> low [num_tokens, rank]
        run("round", [low, x, pairs.down.data()], rank, cols)?;
        run("add", [out, low, pairs.up.data()], rows, rank)
    }
}

/// Stacks matrices, in bf16.
fn rounded<D: Device>(
    device: &D,
    parts: &[MatrixData<'_>],
) -> Result<CudaMatrix<D::Memory>, BackendError> {
    let mut values = Vec::with_capacity(parts.len());
    for part in parts {
        let mut bytes = allocate::reserved(part.rows * part.cols * size_of::<bf16>(), "the host")?;
        for_each_widened(part, |value| bytes.extend(bf16::from_f32(value).to_le_bytes()));
        values.push(bytes);
    }
    let narrow: Vec<MatrixData<'_>> = parts
        .iter()
        .zip(&values)
        .map(|(part, bytes)| MatrixData { dtype: DType::Bf16, bytes, ..*part })
        .collect();
    CudaMatrix::new(device, &narrow, WeightFormat::Stored)
}
