//! What a mixture of experts means: each token by itself, expert by expert.

use crate::allocate;
use crate::backend::{Backend, BackendError, MatrixData, WeightFormat};
use crate::checks::Check;
use crate::host_step::HostStep;
use crate::mixture::{Experts, Mixture, MixtureShape};
use crate::parts::Affine;
use crate::reference::{DEVICE, ReferenceBackend, ReferenceMatrix, affine, dot};

/// A mixture without speed.
#[derive(Debug)]
pub struct ReferenceMixture {
    shape: MixtureShape,
    max_num_tokens: usize,
    /// The experts of each token and their weights, greatest first.
    routes: Vec<Vec<(usize, f64)>>,
}

impl Mixture<ReferenceBackend> for ReferenceMixture {
    type Experts = Vec<ReferenceMatrix>;

    fn new(
        _backend: &mut ReferenceBackend,
        shape: &MixtureShape,
        max_num_tokens: usize,
    ) -> Result<Self, BackendError> {
        shape.check()?;
        let routes = allocate::reserved(max_num_tokens, DEVICE)?;
        Ok(Self { shape: *shape, max_num_tokens, routes })
    }

    fn experts(
        &self,
        backend: &mut ReferenceBackend,
        matrices: &[MatrixData<'_>],
        format: WeightFormat,
    ) -> Result<Vec<ReferenceMatrix>, BackendError> {
        self.shape.check_matrices(matrices)?;
        matrices.iter().map(|matrix| backend.matrix(&[*matrix], format)).collect()
    }

    fn are_finite(
        backend: &mut ReferenceBackend,
        experts: &Vec<ReferenceMatrix>,
    ) -> Result<bool, BackendError> {
        for expert in experts {
            if !backend.is_finite(expert)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn route(
        &mut self,
        _backend: &mut ReferenceBackend,
        step: &HostStep,
        logits: &Vec<f32>,
    ) -> Result<(), BackendError> {
        let (check, num_experts) = (Check("route"), self.shape.num_experts);
        check.at_most("tokens of the step", step.num_tokens(), self.max_num_tokens)?;
        check.holds("logits", logits.len(), step.num_tokens(), num_experts)?;
        let rows = logits.chunks_exact(num_experts).take(step.num_tokens());
        self.routes = rows.map(|logits| routes_of(&self.shape, logits)).collect();
        Ok(())
    }

    fn add(
        &mut self,
        _backend: &mut ReferenceBackend,
        x: &Vec<f32>,
        experts: &Experts<'_, Vec<ReferenceMatrix>>,
        residual: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let (check, hidden) = (Check("experts"), self.shape.hidden_size);
        check.holds("x", x.len(), self.routes.len(), hidden)?;
        check.holds("residual", residual.len(), self.routes.len(), hidden)?;
        for (token, routes) in self.routes.iter().enumerate() {
            let mut sums = vec![0.0; hidden];
            for &(expert, weight) in routes {
                let wide = wide_half(experts, expert, x, token);
                for (feature, sum) in sums.iter_mut().enumerate() {
                    *sum += weight * dot(&wide, experts.down[expert].row(feature));
                }
            }
            for (feature, sum) in sums.into_iter().enumerate() {
                let residual = &mut residual[token * hidden + feature];
                *residual = (f64::from(*residual) + sum) as f32;
            }
        }
        Ok(())
    }
}

/// Returns `activation(gate(x[token])) * up(x[token])` of an expert.
fn wide_half(
    experts: &Experts<'_, Vec<ReferenceMatrix>>,
    expert: usize,
    x: &[f32],
    token: usize,
) -> Vec<f32> {
    let [gate, up] = [experts.gate, experts.up]
        .map(|matrices| Affine::<_, Vec<f32>> { matrix: &matrices[expert], bias: None });
    let features = 0..gate.matrix.rows;
    let value = |feature| {
        let gate = experts.activation.of(affine(x, token, gate, feature));
        (gate * affine(x, token, up, feature)) as f32
    };
    features.map(value).collect()
}

/// Softmax over all experts, then the greatest few; what is no number comes last.
fn routes_of(shape: &MixtureShape, logits: &[f32]) -> Vec<(usize, f64)> {
    let logits: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
    // Adding 0 makes one of both zeros.
    let order = |id: usize| if logits[id].is_nan() { f64::NEG_INFINITY } else { logits[id] + 0.0 };
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    // Stable: of equals the lower id stays first.
    ids.sort_by(|&a, &b| order(b).total_cmp(&order(a)));
    ids.truncate(shape.experts_per_token);
    let weight = |id: usize| (order(id) - max).exp() / total;
    let sum: f64 = ids.iter().map(|&id| weight(id)).sum();
    let divisor = if shape.has_normed_weights { sum } else { 1.0 };
    ids.into_iter().map(|id| (id, weight(id) / divisor)).collect()
}
