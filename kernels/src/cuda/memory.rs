//! What the CUDA backend keeps on a device: activations, vectors, rotations, caches.

use half::bf16;

use crate::backend::BackendError;
use crate::checks::Check;
use crate::cuda::device::{Argument, Device, DeviceMemory};
use crate::metadata::AttentionShape;
use crate::rope_table::RopeTable;

/// The elements of a [`CudaBuffer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elements {
    /// What was computed.
    F32,
    /// Rounded for the tensor cores.
    Bf16,
}

/// A flat buffer of activations.
#[derive(Debug)]
pub struct CudaBuffer<M> {
    memory: M,
    len: usize,
    elements: Elements,
}

impl<M: DeviceMemory> CudaBuffer<M> {
    pub(super) fn new<D: Device<Memory = M>>(
        device: &D,
        len: usize,
        elements: Elements,
    ) -> Result<Self, BackendError> {
        let size = match elements {
            Elements::F32 => size_of::<f32>(),
            Elements::Bf16 => size_of::<bf16>(),
        };
        let mut memory = device.allocate(len.saturating_mul(size))?;
        device.zero(&mut memory)?;
        Ok(Self { memory, len, elements })
    }

    /// Returns the number of activations.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns what it holds.
    pub(super) fn elements(&self) -> Elements {
        self.elements
    }

    /// Returns the address for a kernel that takes `expected`.
    pub(super) fn argument(
        &self,
        check: Check,
        name: &str,
        expected: Elements,
    ) -> Result<Argument, BackendError> {
        if self.elements != expected {
            return check.refuse(format!(
                "`{name}` must hold {expected:?} on a GPU, got {:?}: products read operands and write buffers",
                self.elements
            ));
        }
        Ok(Argument::Pointer(self.memory.address()))
    }

    /// Returns the address, whatever it holds.
    pub(super) fn address(&self) -> Argument {
        Argument::Pointer(self.memory.address())
    }

    pub(super) fn read<D: Device<Memory = M>>(
        &self,
        device: &D,
        out: &mut [f32],
    ) -> Result<(), BackendError> {
        match self.elements {
            Elements::F32 => device.download(&self.memory, 0, bytemuck::cast_slice_mut(out)),
            Elements::Bf16 => {
                let mut narrow = vec![bf16::ZERO; out.len()];
                device.download(&self.memory, 0, bytemuck::cast_slice_mut(&mut narrow))?;
                for (out, narrow) in out.iter_mut().zip(narrow) {
                    *out = narrow.to_f32();
                }
                Ok(())
            }
        }
    }
}

/// A vector of f32 on a device.
#[derive(Debug)]
pub struct CudaVector<M> {
    memory: M,
    len: usize,
}

impl<M: DeviceMemory> CudaVector<M> {
    pub(super) fn new<D: Device<Memory = M>>(
        device: &D,
        values: &[f32],
    ) -> Result<Self, BackendError> {
        let mut memory = device.allocate(size_of_val(values))?;
        device.upload(&mut memory, 0, bytemuck::cast_slice(values))?;
        Ok(Self { memory, len: values.len() })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn address(&self) -> Argument {
        Argument::Pointer(self.memory.address())
    }
}

/// Cosines and sines, `[num_positions, head_dim / 2]` each.
#[derive(Debug)]
pub struct CudaRopeTable<M> {
    pub(super) cos: CudaVector<M>,
    pub(super) sin: CudaVector<M>,
    pub(super) half_dim: usize,
    pub(super) num_positions: usize,
}

impl<M: DeviceMemory> CudaRopeTable<M> {
    pub(super) fn new<D: Device<Memory = M>>(
        device: &D,
        table: &RopeTable,
    ) -> Result<Self, BackendError> {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in 0..table.num_positions() {
            let (cosines, sines) = table.row(position);
            cos.extend_from_slice(cosines);
            sin.extend_from_slice(sines);
        }
        Ok(Self {
            cos: CudaVector::new(device, &cos)?,
            sin: CudaVector::new(device, &sin)?,
            half_dim: table.half_dim(),
            num_positions: table.num_positions(),
        })
    }
}

/// Keys and values of one layer in f16: `[num_blocks, num_kv_heads, 2, block_size * head_dim]`. Of a head first the keys,
/// `[block_size, head_dim]`, then the values turned, `[head_dim, block_size]`.
#[derive(Debug)]
pub struct CudaLayerCache<M> {
    pub(super) memory: M,
    pub(super) shape: AttentionShape,
    pub(super) num_blocks: usize,
}

impl<M: DeviceMemory> CudaLayerCache<M> {
    pub(super) fn address(&self) -> Argument {
        Argument::Pointer(self.memory.address())
    }
}
