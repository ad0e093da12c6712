//! What a device that chooses tokens itself is told of each: the sampler's settings as it takes them.

use std::collections::BTreeMap;

use models::SampleRow;

use crate::engine::batch::SamplingRow;
use crate::engine::sampler::{log_share, random_bits};

/// The lists of a step's rows, which [`SampleRow`]s borrow.
#[derive(Debug)]
pub(super) struct SampleRows<'a> {
    rows: &'a [SamplingRow],
    /// Of each row: what is added to which logits, each once.
    bias: Vec<Vec<(u32, f32)>>,
    /// Of each row: tokens of prompt and output, once, and how often they stand in the output.
    seen: Vec<Vec<(u32, u32)>>,
    num_ids: usize,
}

impl<'a> SampleRows<'a> {
    pub(super) fn new(rows: &'a [SamplingRow], num_ids: usize) -> Self {
        let bias = rows.iter().map(|row| merged(&row.params.logit_bias)).collect();
        Self { rows, bias, seen: rows.iter().map(seen).collect(), num_ids }
    }

    /// Returns the rows as a device takes them.
    pub(super) fn as_rows(&self) -> Vec<SampleRow<'_>> {
        let rows = self.rows.iter().zip(&self.bias).zip(&self.seen);
        rows.map(|((row, bias), seen)| {
            let params = &row.params;
            SampleRow {
                temperature: params.temperature,
                top_k: params.top_k,
                top_p: params.top_p,
                log_min_p: log_share(params, self.num_ids),
                repetition_penalty: params.repetition_penalty,
                presence_penalty: params.presence_penalty,
                frequency_penalty: params.frequency_penalty,
                bias,
                seen,
                // Without a seed, any is as good; a fixed one keeps this a function of its arguments.
                point: random_bits(params.seed.unwrap_or(0), row.num_generated),
            }
        })
        .collect()
    }
}

/// Adds up what is said of a token more than once.
fn merged(bias: &[(u32, f32)]) -> Vec<(u32, f32)> {
    let mut sums = BTreeMap::new();
    for &(id, bias) in bias {
        *sums.entry(id).or_insert(0.0) += bias;
    }
    sums.into_iter().collect()
}

/// Counts a row's tokens; its history is empty where no penalty asks for it.
fn seen(row: &SamplingRow) -> Vec<(u32, u32)> {
    let mut counts = BTreeMap::new();
    for (index, id) in row.history.iter().enumerate() {
        *counts.entry(*id).or_insert(0) += u32::from(index >= row.num_prompt_tokens);
    }
    counts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{completion::SamplingParams, engine::sequence::SequenceId};

    #[test]
    fn tokens_are_counted_where_they_stand_in_the_output() {
        let row = SamplingRow {
            sequence_id: SequenceId(0),
            params: Arc::new(SamplingParams::greedy()),
            num_generated: 3,
            history: vec![5, 5, 2, 9, 2, 9],
            num_prompt_tokens: 3,
            logprobs: None,
        };
        assert_eq!(seen(&row), [(2, 1), (5, 0), (9, 2)]);
    }

    #[test]
    fn a_token_that_is_named_twice_gets_both() {
        assert_eq!(merged(&[(7, 1.0), (3, 2.0), (7, 0.5)]), [(3, 2.0), (7, 1.5)]);
    }
}
