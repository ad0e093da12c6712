//! Launches of norms, and of the factor on an embedding.

use crate::backend::BackendError;
use crate::checks::Check;
use crate::cuda::device::{Argument, Device};
use crate::cuda::memory::{CudaBuffer, CudaVector, Elements};
use crate::cuda::rows::launch_rows;
use crate::metadata::AttentionShape;
use crate::parts::{HeadNorms, Norm};

/// Lanes of a warp, which norms a head.
const WARP_LANES: usize = 32;

/// Norms rows of `x`, f32, into `out`, an operand.
pub(super) fn norm<D: Device>(
    device: &mut D,
    num_rows: usize,
    x: &CudaBuffer<D::Memory>,
    norm: &Norm<'_, CudaVector<D::Memory>>,
    out: &CudaBuffer<D::Memory>,
) -> Result<(), BackendError> {
    let (check, width) = (Check(norm.name()), norm.weight().len());
    check.holds("x", x.len(), num_rows, width)?;
    check.holds("out", out.len(), num_rows, width)?;
    let out = out.argument(check, "out", Elements::Bf16)?;
    let x = x.argument(check, "x", Elements::F32)?;
    let cols = Argument::U32(width as u32);
    // A thread loads four elements at a time where a row is made of such.
    let num_loads = if width.is_multiple_of(4) { width / 4 } else { width };
    match norm {
        Norm::Rms { weight, eps } => {
            let arguments = [out, x, weight.address(), cols, Argument::F32(*eps)];
            launch_rows(device, "rms_norm", (num_rows, num_loads), &arguments)
        }
        Norm::Layer { weight, bias, eps } => {
            check.equal("length of `bias`", bias.len(), width)?;
            let eps = Argument::F32(*eps);
            let arguments = [out, x, weight.address(), bias.address(), cols, eps];
            launch_rows(device, "layer_norm", (num_rows, num_loads), &arguments)
        }
    }
}

/// Norms the queries and keys of `qkv`, f32.
pub(super) fn head_norm<D: Device>(
    device: &mut D,
    num_rows: usize,
    shape: &AttentionShape,
    norms: &HeadNorms<'_, CudaVector<D::Memory>>,
    qkv: &CudaBuffer<D::Memory>,
) -> Result<(), BackendError> {
    let check = Check("head_norm");
    check.head_norms(shape, norms.query.len(), norms.key.len())?;
    check.holds("qkv", qkv.len(), num_rows, shape.qkv_width())?;
    let arguments = [
        qkv.argument(check, "qkv", Elements::F32)?,
        norms.query.address(),
        norms.key.address(),
        Argument::U32(shape.num_heads as u32),
        Argument::U32(shape.num_kv_heads as u32),
        Argument::U32(shape.head_dim as u32),
        Argument::F32(norms.eps),
    ];
    let num_threads = (shape.num_heads + shape.num_kv_heads) * WARP_LANES;
    launch_rows(device, "head_norm", (num_rows, num_threads), &arguments)
}

/// Multiplies rows of `x`, f32.
pub(super) fn scale<D: Device>(
    device: &mut D,
    (num_rows, width): (usize, usize),
    factor: f32,
    x: &CudaBuffer<D::Memory>,
) -> Result<(), BackendError> {
    let check = Check("scale");
    check.holds("x", x.len(), num_rows, width)?;
    let x = x.argument(check, "x", Elements::F32)?;
    let arguments = [x, Argument::F32(factor), Argument::U32(width as u32)];
    launch_rows(device, "scale_rows", (num_rows, width), &arguments)
}
