//! The cases of mixtures of experts: the router's choice, and the experts of what it chose.

use std::collections::BTreeSet;

use crate::backend::{Backend, BackendError, DType, MatrixData};
use crate::bench::cases::{Bench, F32_BYTES, num_rows, rows};
use crate::bench::rig::{Piece, random_bf16, step, values};
use crate::mixture::{Experts, Mixture, MixtureShape};
use crate::selftest::rig::{Random, Use, upload};

impl<B: Backend> Bench<'_, B> {
    /// Measures both; routers are random, so that experts are chosen evenly. The experts of one layer are larger than any
    /// cache.
    pub(super) fn mixtures(&mut self, shape: &MixtureShape) -> Result<(), BackendError> {
        let MixtureShape { num_experts, experts_per_token, hidden_size, expert_size, .. } = *shape;
        let bytes = random_bf16(hidden_size * expert_size);
        let part = |rows, cols| MatrixData { rows, cols, dtype: DType::Bf16, bytes: &bytes };
        let [wide, narrow] = [part(expert_size, hidden_size), part(hidden_size, expert_size)];
        let format = self.plan.format;
        let [wide_bytes, narrow_bytes] =
            [wide, narrow].map(|part| B::matrix_bytes(&[part], format) as usize);
        let all_rows = num_rows(self.plan);
        let max_num_rows = all_rows.last().copied().unwrap_or(0);
        let mut mixture = B::Mixture::new(self.backend, shape, max_num_rows)?;
        let mut stored = |part| mixture.experts(self.backend, &vec![part; num_experts], format);
        let (gate, up, down) = (stored(wide)?, stored(wide)?, stored(narrow)?);
        self.backend.reserve(max_num_rows)?;
        let experts =
            Experts { activation: self.plan.widths.activation, gate: &gate, up: &up, down: &down };
        for num_rows in all_rows {
            if self.is_stopped {
                return Ok(());
            }
            let pieces = [Piece { context_tokens: num_rows, num_new: num_rows }];
            let loaded = step(self.backend, &pieces)?;
            let logit_values = Random(num_rows as u64).values(num_rows * num_experts);
            let num_chosen = num_chosen(&logit_values, shape);
            let logits = upload(self.backend, &logit_values, Use::Buffer)?;
            let case = ("mixture: route", rows(num_rows));
            let num_bytes = num_rows * (num_experts + 2 * experts_per_token) * F32_BYTES;
            self.measure(case, (num_bytes, 0), &mut |backend, _| {
                mixture.route(backend, &loaded, &logits)
            })?;
            let x = values(self.backend, (num_rows, hidden_size), Use::Operand)?;
            let mut residual = values(self.backend, (num_rows, hidden_size), Use::Buffer)?;
            // What is added to is read and written.
            let row_bytes = hidden_size * (B::OPERAND_BYTES + 2 * F32_BYTES);
            let num_bytes = num_chosen * (2 * wide_bytes + narrow_bytes) + num_rows * row_bytes;
            let num_flops = 6 * num_rows * experts_per_token * hidden_size * expert_size;
            let case = ("mixture: experts", rows(num_rows));
            self.measure(case, (num_bytes, num_flops), &mut |backend, _| {
                mixture.add(backend, &x, &experts, &mut residual)
            })?;
        }
        Ok(())
    }
}

/// Returns how many experts are chosen by any row.
fn num_chosen(logits: &[f32], shape: &MixtureShape) -> usize {
    let mut chosen = BTreeSet::new();
    for row in logits.chunks_exact(shape.num_experts) {
        let mut ids: Vec<usize> = (0..row.len()).collect();
        ids.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        chosen.extend(ids.into_iter().take(shape.experts_per_token));
    }
    chosen.len()
}
