//! Which part of each tensor a rank has, and of which spec its part is a decoder.
//!
//! Queries, keys, values, gates and ups are cut by rows, so that a rank has whole heads with the keys and values that
//! belong to them, and the elements of the feed-forward part that its gates open. What multiplies those, the attention's
//! output and the down projection, is cut by columns: each rank then has a part of every sum. Norms, embedding and head
//! are whole on each rank.

use std::{
    fmt::Write as _,
    ops::Range,
    slice::{from_mut, from_ref},
};

use kernels::{
    backend::{DType, WeightFormat},
    formats::FP8_BLOCK_LEN,
};

use crate::{
    config::{DecoderSpec, MixtureSpec},
    error::ModelError,
    weights::{FeedForwardPlan, Kept, LayerPlan, TensorSpec, WeightPlan, Weights},
};

/// The name of the option in errors.
const OPTION: &str = "tensor_parallel_size";

/// Elements of a block that plain numbers are rounded in.
const INT8_BLOCK: usize = 32;

/// A rank's part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    /// Which.
    pub(crate) rank: usize,
    /// Of how many.
    pub(crate) num_ranks: usize,
}

impl Shard {
    /// Returns the spec of what a rank computes: the same layers with fewer heads and a narrower feed-forward part.
    ///
    /// # Errors
    /// [`ModelError::Option`] where a rank would have a part of a head; it says which numbers of ranks would do.
    pub(crate) fn spec(self, spec: &DecoderSpec) -> Result<DecoderSpec, ModelError> {
        if !divides(spec, self.num_ranks) {
            let mut rule = format!(
                "{}: a divisor of `num_key_value_heads` ({}) and of `intermediate_size` ({})",
                list(&divisors(spec)),
                spec.num_kv_heads,
                spec.ffn_size
            );
            if let Some(mixture) = &spec.mixture {
                let _ = write!(rule, " and of `moe_intermediate_size` ({})", mixture.expert_size);
            }
            return Err(self.refusal(rule));
        }
        let expert_size = |mixture: &MixtureSpec| mixture.expert_size / self.num_ranks;
        Ok(DecoderSpec {
            num_heads: spec.num_heads / self.num_ranks,
            num_kv_heads: spec.num_kv_heads / self.num_ranks,
            ffn_size: spec.ffn_size / self.num_ranks,
            mixture: spec.mixture.as_ref().map(|mixture| MixtureSpec {
                expert_size: expert_size(mixture),
                ..mixture.clone()
            }),
            ..spec.clone()
        })
    }

    /// Returns the plan of what is loaded for this rank, out of the whole model's.
    ///
    /// # Errors
    /// [`ModelError::Option`] where blocks of integers would be cut; [`ModelError::Weights`] where the tensors are not
    /// those of the plan.
    pub(crate) fn plan(
        self,
        spec: &DecoderSpec,
        mut plan: WeightPlan,
        weights: &Weights,
        format: WeightFormat,
    ) -> Result<WeightPlan, ModelError> {
        for layer in &mut plan.layers {
            self.check_blocks(spec, layer, weights, format)?;
            self.cut(spec, layer);
        }
        Ok(plan)
    }

    fn cut(self, spec: &DecoderSpec, layer: &mut LayerPlan) {
        let heads = [spec.query_width(), spec.kv_width(), spec.kv_width()];
        self.cut_rows(&mut layer.qkv, &heads);
        if let Some(bias) = &mut layer.qkv_bias {
            self.cut_rows(bias, &heads);
        }
        // Their biases are whole on each rank, and added by the first alone.
        layer.attention_output.kept = Kept::Cols(self.range(spec.query_width()));
        match &mut layer.ffn {
            FeedForwardPlan::Dense(dense) => {
                let ups = [Some(&mut dense.up), dense.gate.as_mut()];
                let biases = [dense.up_bias.as_mut(), dense.gate_bias.as_mut()];
                for tensor in ups.into_iter().chain(biases).flatten() {
                    self.cut_rows(from_mut(tensor), &[spec.ffn_size]);
                }
                dense.down.kept = Kept::Cols(self.range(spec.ffn_size));
            }
            // Each expert as a dense part; the router is whole on each rank, so that all choose the same.
            FeedForwardPlan::Mixture(mixture) => {
                for tensor in mixture.gates.iter_mut().chain(&mut mixture.ups) {
                    let rows = tensor.shape[0];
                    self.cut_rows(from_mut(tensor), &[rows]);
                }
                for tensor in &mut mixture.downs {
                    tensor.kept = Kept::Cols(self.range(tensor.shape[1]));
                }
            }
        }
    }

    /// Keeps this rank's part of each section of the rows that `parts` make up together, however they are stored.
    fn cut_rows(self, parts: &mut [TensorSpec], sections: &[usize]) {
        let mut kept = Vec::with_capacity(sections.len());
        let mut start = 0;
        for &len in sections {
            let range = self.range(len);
            kept.push(start + range.start..start + range.end);
            start += len;
        }
        let mut start = 0;
        for part in parts {
            let end = start + part.shape[0];
            let inside = kept.iter().map(|range| range.start.max(start)..range.end.min(end));
            let inside = inside.filter(|range| !range.is_empty());
            part.kept =
                Kept::Rows(inside.map(|range| range.start - start..range.end - start).collect());
            start = end;
        }
    }

    /// Returns this rank's part of so many.
    fn range(self, len: usize) -> Range<usize> {
        let share = len / self.num_ranks;
        self.rank * share..(self.rank + 1) * share
    }

    /// Refuses shards whose columns would end inside a block.
    fn check_blocks(
        self,
        spec: &DecoderSpec,
        layer: &LayerPlan,
        weights: &Weights,
        format: WeightFormat,
    ) -> Result<(), ModelError> {
        let mut columns = Vec::new();
        for tensor in from_ref(&layer.attention_output).iter().chain(layer.ffn.downs()) {
            let (_, dtype) = weights.find(tensor)?;
            columns.push((tensor, dtype, block_len(dtype, format)));
        }
        let is_whole =
            |num_ranks: usize, cols: usize, block: usize| (cols / num_ranks).is_multiple_of(block);
        for &(tensor, dtype, block) in &columns {
            let cols = tensor.shape[1];
            if is_whole(self.num_ranks, cols, block) {
                continue;
            }
            let fits = |&num_ranks: &usize| {
                columns
                    .iter()
                    .all(|(tensor, _, block)| is_whole(num_ranks, tensor.shape[1], *block))
            };
            let sizes: Vec<usize> = divisors(spec).into_iter().filter(fits).collect();
            let name = match (format, dtype.block_len()) {
                (WeightFormat::Int8, 1) => "int8",
                (WeightFormat::Fp8, 1) => "fp8",
                _ => dtype.name(),
            };
            let rule = format!(
                "{}: each rank's columns of `{}` ({cols} in all) must be a multiple of the {block} of a block of {name}",
                list(&sizes),
                tensor.name
            );
            return Err(self.refusal(rule));
        }
        Ok(())
    }

    fn refusal(self, rule: String) -> ModelError {
        ModelError::Option { option: OPTION, rule, value: self.num_ranks as u64 }
    }
}

/// Returns the elements of a row that have a scale together, once the weights are in memory.
fn block_len(dtype: DType, format: WeightFormat) -> usize {
    match format {
        WeightFormat::Int8 if !dtype.is_integers() => INT8_BLOCK,
        WeightFormat::Fp8 if !dtype.is_integers() => FP8_BLOCK_LEN,
        WeightFormat::Int8 | WeightFormat::Fp8 | WeightFormat::Stored | WeightFormat::F32 => {
            dtype.block_len()
        }
    }
}

fn divides(spec: &DecoderSpec, num_ranks: usize) -> bool {
    num_ranks > 0
        && spec.num_kv_heads.is_multiple_of(num_ranks)
        && spec.ffn_size.is_multiple_of(num_ranks)
        && spec.mixture.as_ref().is_none_or(|mixture| mixture.expert_size.is_multiple_of(num_ranks))
}

/// Returns the numbers of ranks that leave heads and elements whole; query heads are a multiple of key/value heads.
fn divisors(spec: &DecoderSpec) -> Vec<usize> {
    (1..=spec.num_kv_heads).filter(|&num_ranks| divides(spec, num_ranks)).collect()
}

/// Returns `1, 2 or 4`.
fn list(sizes: &[usize]) -> String {
    let words: Vec<String> = sizes.iter().map(usize::to_string).collect();
    match &words[..] {
        [before @ .., last] if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        words => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, open_weights, read_spec};

    fn one(rows: Range<usize>) -> Kept {
        Kept::Rows(vec![rows])
    }

    fn shard(rank: usize, num_ranks: usize) -> Shard {
        Shard { rank, num_ranks }
    }

    #[test]
    fn numbers_of_ranks_that_cut_a_head_are_refused_with_those_that_would_do() {
        let spec = crate::shape("qwen2.5-coder-7b").unwrap();
        let spec_of = |num_ranks| shard(0, num_ranks).spec(&spec);
        for num_ranks in [1, 2, 4] {
            let shard = spec_of(num_ranks).unwrap();
            assert_eq!(shard.num_heads * num_ranks, 28);
            assert_eq!(shard.num_kv_heads * num_ranks, 4);
            assert_eq!(shard.ffn_size * num_ranks, 18944);
            let same = DecoderSpec { num_heads: 28, num_kv_heads: 4, ffn_size: 18944, ..shard };
            assert_eq!(same, spec);
        }
        for num_ranks in [0, 3, 8] {
            assert_eq!(
                spec_of(num_ranks).unwrap_err().to_string(),
                format!(
                    "`tensor_parallel_size` must be 1, 2 or 4: a divisor of `num_key_value_heads` (4) and of \
                     `intermediate_size` (18944), got {num_ranks}"
                )
            );
        }
    }

    #[test]
    fn ranks_together_have_each_row_and_column_once() {
        let spec = read_spec(Source::Demo).unwrap();
        let weights = open_weights(Source::Demo).unwrap();
        let cuts = [0, 1].map(|rank| {
            let plan = weights.plan(&spec).unwrap();
            shard(rank, 2).plan(&spec, plan, &weights, WeightFormat::Int8).unwrap().layers.remove(3)
        });
        let [first, second] = cuts.each_ref().map(|layer| layer.qkv.clone());
        for (first, second) in first.iter().zip(&second) {
            let rows = first.shape[0];
            assert_eq!(first.kept, one(0..rows / 2));
            assert_eq!(second.kept, one(rows / 2..rows));
            assert_eq!(second.kept_shape(), [rows / 2, 256]);
        }
        let down = cuts.each_ref().map(|layer| layer.ffn.downs()[0].clone());
        assert_eq!(
            down.each_ref().map(|down| down.kept.clone()),
            [0..384, 384..768].map(Kept::Cols)
        );
        assert_eq!(down[0].kept_shape(), [256, 384]);
        assert!(cuts.iter().all(|layer| layer.ffn_norm.weight.kept == Kept::All));
    }

    #[test]
    fn rows_that_are_stored_together_are_cut_where_their_sections_are() {
        let mut fused = [TensorSpec::matrix("qkv", 12 + 6 + 6, 5)];
        shard(1, 3).cut_rows(&mut fused, &[12, 6, 6]);
        assert_eq!(fused[0].kept, Kept::Rows(vec![4..8, 14..16, 20..22]));
        assert_eq!(fused[0].kept_shape(), [8, 5]);
        let mut apart = [TensorSpec::vector("q", 12), TensorSpec::vector("kv", 12)];
        shard(2, 3).cut_rows(&mut apart, &[12, 6, 6]);
        assert_eq!(apart[0].kept, one(8..12));
        assert_eq!(apart[1].kept, Kept::Rows(vec![4..6, 10..12]));
    }

    #[test]
    fn blocks_are_not_cut() {
        let spec = DecoderSpec { ffn_size: 96, ..read_spec(Source::Demo).unwrap() };
        let weights = crate::random_weights(&spec, 1).unwrap();
        let cut = |format| {
            shard(0, 2).plan(&spec, weights.plan(&spec).unwrap(), &weights, format).map(drop)
        };
        cut(WeightFormat::Stored).unwrap();
        assert_eq!(
            cut(WeightFormat::Int8).unwrap_err().to_string(),
            "`tensor_parallel_size` must be 1: each rank's columns of `model.layers.0.mlp.down_proj.weight` (96 in all) \
             must be a multiple of the 32 of a block of int8, got 2"
        );
    }
}
