//! What adapters mean: each token by itself.

use crate::backend::{Backend, BackendError, WeightFormat};
use crate::checks::Check;
use crate::host_step::HostStep;
use crate::lora::{Lora, LoraPair, LoraShape, NO_ADAPTER};
use crate::reference::{ReferenceBackend, ReferenceMatrix, dot};

/// Adapters without speed.
#[derive(Debug)]
pub struct ReferenceLora {
    shape: LoraShape,
    max_num_tokens: usize,
    /// The adapter of each token.
    adapters: Vec<u32>,
}

impl Lora<ReferenceBackend> for ReferenceLora {
    /// `A` and `B` of each adapter.
    type Pairs = Vec<[ReferenceMatrix; 2]>;

    fn new(
        _backend: &mut ReferenceBackend,
        shape: &LoraShape,
        max_num_tokens: usize,
    ) -> Result<Self, BackendError> {
        Ok(Self { shape: *shape, max_num_tokens, adapters: Vec::new() })
    }

    fn pairs(
        &self,
        backend: &mut ReferenceBackend,
        pairs: &[LoraPair<'_>],
    ) -> Result<Self::Pairs, BackendError> {
        self.shape.check_pairs(pairs)?;
        let mut store = |part| backend.matrix(&[part], WeightFormat::F32);
        pairs.iter().map(|pair| Ok([store(pair.down)?, store(pair.up)?])).collect()
    }

    fn group(
        &mut self,
        _backend: &mut ReferenceBackend,
        step: &HostStep,
    ) -> Result<(), BackendError> {
        let check = Check("adapters");
        check.at_most("tokens of the step", step.num_tokens(), self.max_num_tokens)?;
        check.adapters(step.adapters(), self.shape.num_adapters)?;
        self.adapters = step.adapters().to_vec();
        Ok(())
    }

    fn add(
        &mut self,
        _backend: &mut ReferenceBackend,
        x: &Vec<f32>,
        pairs: &Self::Pairs,
        out: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let (check, num_tokens) = (Check("adapters"), self.adapters.len());
        let [down, up] = &pairs[0];
        check.holds("x", x.len(), num_tokens, down.cols)?;
        check.holds("out", out.len(), num_tokens, up.rows)?;
        for (token, &adapter) in self.adapters.iter().enumerate() {
            if adapter == NO_ADAPTER {
                continue;
            }
            let [down, up] = &pairs[adapter as usize];
            let x = &x[token * down.cols..(token + 1) * down.cols];
            let low: Vec<f32> = (0..down.rows).map(|row| dot(x, down.row(row)) as f32).collect();
            for (row, out) in out[token * up.rows..(token + 1) * up.rows].iter_mut().enumerate() {
                *out = (f64::from(*out) + dot(&low, up.row(row))) as f32;
            }
        }
        Ok(())
    }
}
