//! Mixtures of experts: rows are gathered by expert, and each expert that was chosen meets all of its rows at once.
//!
//! The tasks of all experts are one region of the pool, for gates and ups together and for the way back, so that a weight
//! comes from memory once a step and a single token, whose experts have a row each, keeps all threads busy. A row meets its
//! matrix as it would alone, and a token adds what its experts say from the likeliest to the last: who shares the step
//! changes no bit.
//!
//! # Limit
//! Few tokens: memory, the weights of the experts that were chosen. Many: the products', of `experts_per_token` rows each.

use bytemuck::Zeroable;

use crate::allocate;
use crate::backend::{Backend, BackendError, MatrixData, WeightFormat};
use crate::checks::Check;
use crate::cpu::grid::Grid;
use crate::cpu::groups::Groups;
use crate::cpu::linear::{Epilogue, Linear, Term, gated};
use crate::cpu::matrix::CpuMatrix;
use crate::cpu::step::CpuStep;
use crate::cpu::{CpuBackend, CpuBuffer, DEVICE};
use crate::mixture::{Experts, Mixture, MixtureShape};

/// An expert of a token, and its part of the sum.
#[derive(Clone, Copy, Debug, Zeroable)]
struct Route {
    expert: u32,
    weight: f32,
}

/// The room of mixtures on the CPU. A row is a token's for one of its experts; rows lie expert by expert.
#[derive(Debug)]
pub struct CpuMixture {
    shape: MixtureShape,
    num_tokens: usize,
    /// `[max_num_tokens, experts_per_token]`, the likeliest first.
    routes: Vec<Route>,
    groups: Groups,
    /// The tokens' rows, then what the experts made of them: `[num_rows, hidden_size]`.
    narrow: CpuBuffer,
    /// `[num_rows, expert_size]`
    wide: CpuBuffer,
}

impl Mixture<CpuBackend> for CpuMixture {
    type Experts = Vec<CpuMatrix>;

    fn new(
        backend: &mut CpuBackend,
        shape: &MixtureShape,
        max_num_tokens: usize,
    ) -> Result<Self, BackendError> {
        shape.check()?;
        let num_rows = shape.num_pairs(max_num_tokens);
        Ok(Self {
            shape: *shape,
            num_tokens: 0,
            routes: allocate::zeroed(num_rows, DEVICE)?,
            groups: Groups::new(shape.num_experts, num_rows)?,
            narrow: backend.buffer(num_rows.saturating_mul(shape.hidden_size))?,
            wide: backend.buffer(num_rows.saturating_mul(shape.expert_size))?,
        })
    }

    fn experts(
        &self,
        backend: &mut CpuBackend,
        matrices: &[MatrixData<'_>],
        format: WeightFormat,
    ) -> Result<Vec<CpuMatrix>, BackendError> {
        self.shape.check_matrices(matrices)?;
        let rows_per_token = self.shape.experts_per_token;
        let store = |matrix: &MatrixData<'_>| backend.matrix_of(&[*matrix], format, rows_per_token);
        matrices.iter().map(store).collect()
    }

    fn are_finite(
        backend: &mut CpuBackend,
        experts: &Vec<CpuMatrix>,
    ) -> Result<bool, BackendError> {
        Ok(experts.iter().all(|expert| expert.is_finite(&mut backend.pool)))
    }

    fn route(
        &mut self,
        backend: &mut CpuBackend,
        step: &CpuStep,
        logits: &CpuBuffer,
    ) -> Result<(), BackendError> {
        let (check, num_tokens) = (Check("route"), step.host().num_tokens());
        let MixtureShape { num_experts, experts_per_token, has_normed_weights, .. } = self.shape;
        let max_num_tokens = self.routes.len() / experts_per_token;
        check.at_most("tokens of the step", num_tokens, max_num_tokens)?;
        check.holds("logits", logits.len(), num_tokens, num_experts)?;
        let logits = logits.values();
        // A task is cut by what it reads.
        let grid = Grid { width: experts_per_token, ..Grid::of_rows(num_tokens, num_experts) };
        grid.for_each_tile(&mut backend.pool, &mut self.routes, &|mut tile| {
            for token in tile.rows() {
                let logits = &logits[token * num_experts..(token + 1) * num_experts];
                choose(logits, has_normed_weights, tile.row(token));
            }
        });
        self.num_tokens = num_tokens;
        let routes = &self.routes[..num_tokens * experts_per_token];
        self.groups.deal(routes.iter().map(|route| route.expert));
        Ok(())
    }

    fn add(
        &mut self,
        backend: &mut CpuBackend,
        x: &CpuBuffer,
        experts: &Experts<'_, Vec<CpuMatrix>>,
        residual: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let (check, num_tokens) = (Check("experts"), self.num_tokens);
        let Self { shape, groups, narrow, wide, .. } = self;
        check.holds("x", x.len(), num_tokens, shape.hidden_size)?;
        check.holds("residual", residual.len(), num_tokens, shape.hidden_size)?;
        let [gate, up, down] = [experts.gate, experts.up, experts.down];
        for (matrices, rows) in
            [(gate, shape.expert_size), (up, shape.expert_size), (down, shape.hidden_size)]
        {
            check.equal("experts", matrices.len(), shape.num_experts)?;
            check.equal("rows of each expert", matrices[0].rows, rows)?;
        }
        let rows = groups.product_rows();
        let num_rows = shape.num_pairs(num_tokens);
        // x [num_tokens, hidden_size] -> narrow [num_rows, hidden_size]
        let (width, from) = (shape.hidden_size, x.values());
        let grid = Grid::of_rows(num_rows, width);
        grid.for_each_tile(&mut backend.pool, narrow.0.as_mut_slice(), &|mut tile| {
            for row in tile.rows() {
                let token = groups.entry(row) / shape.experts_per_token;
                tile.row(row).copy_from_slice(&from[token * width..(token + 1) * width]);
            }
        });
        let terms = gated(experts.activation, (gate, None), (up, None));
        backend.products(check, Linear { rows, x: narrow.values(), terms: &terms }, wide)?;
        let terms = [Term { matrices: down, epilogue: Epilogue::Store, activation: None }];
        backend.products(check, Linear { rows, x: wide.values(), terms: &terms }, narrow)?;
        self.combine(backend, residual);
        Ok(())
    }
}

impl CpuMixture {
    /// Adds each token's rows, `[num_rows, hidden_size]`, by their weights.
    fn combine(&self, backend: &mut CpuBackend, residual: &mut CpuBuffer) {
        let (width, num_routes) = (self.shape.hidden_size, self.shape.experts_per_token);
        let narrow = self.narrow.values();
        let grid = Grid::of_rows(self.num_tokens, width);
        grid.for_each_tile(&mut backend.pool, residual.0.as_mut_slice(), &|mut tile| {
            for token in tile.rows() {
                let sums = tile.row(token);
                for index in token * num_routes..(token + 1) * num_routes {
                    let Some(row) = self.groups.row(index) else { continue };
                    let weight = self.routes[index].weight;
                    for (sum, value) in sums.iter_mut().zip(&narrow[row * width..][..width]) {
                        *sum += weight * value;
                    }
                }
            }
        });
    }
}

/// Chooses the greatest logits, the lower id of equals; what is no number comes last, and makes all weights such.
fn choose(logits: &[f32], has_normed_weights: bool, routes: &mut [Route]) {
    let mut len = 0;
    for (expert, &logit) in logits.iter().enumerate() {
        let weight = if logit.is_nan() { f32::NEG_INFINITY } else { logit };
        let place = routes[..len].iter().position(|route| route.weight < weight).unwrap_or(len);
        if place < routes.len() {
            len = routes.len().min(len + 1);
            routes[place..len].rotate_right(1);
            routes[place] = Route { expert: expert as u32, weight };
        }
    }
    let max = routes[0].weight;
    let total: f64 = logits.iter().map(|logit| f64::from((logit - max).exp())).sum();
    let weights = routes.iter().map(|route| f64::from((route.weight - max).exp()) / total);
    let divisor = if has_normed_weights { weights.sum() } else { 1.0 };
    for route in routes {
        route.weight = (f64::from((route.weight - max).exp()) / total / divisor) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(logits: &[f32], num_routes: usize, is_normed: bool) -> (Vec<u32>, Vec<f32>) {
        let mut routes = vec![Route::zeroed(); num_routes];
        choose(logits, is_normed, &mut routes);
        routes.iter().map(|route| (route.expert, route.weight)).unzip()
    }

    #[test]
    fn the_greatest_are_chosen_and_the_lower_of_equals() {
        for (logits, expected) in [
            (vec![0.0, 3.0, 1.0, 2.0], vec![1, 3]),
            (vec![5.0, 5.0, 5.0, 5.0], vec![0, 1]),
            (vec![1.0, 2.0, 2.0, 1.0], vec![1, 2]),
            (vec![f32::NEG_INFINITY; 4], vec![0, 1]),
            (vec![f32::NAN, -1.0, f32::NAN, f32::NEG_INFINITY], vec![1, 0]),
            (vec![f32::NAN; 3], vec![0, 1]),
        ] {
            assert_eq!(chosen(&logits, 2, true).0, expected, "{logits:?}");
        }
    }

    #[test]
    fn weights_are_of_all_or_of_the_chosen() {
        let logits = [0.0, 2.0_f32.ln(), 4.0_f32.ln(), 0.0];
        for (is_normed, expected) in [(false, [0.5, 0.25]), (true, [2.0 / 3.0, 1.0 / 3.0])] {
            for (found, expected) in chosen(&logits, 2, is_normed).1.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
        let not_numbers = chosen(&[0.0, f32::NAN, 1.0], 2, true).1;
        assert!(not_numbers.iter().all(|weight| weight.is_nan()), "{not_numbers:?}");
    }
}
