//! PyTorch's answers of the embedded model to prompts of the golden set.

use std::sync::Arc;

use serde::Deserialize;

use crate::{completion::SamplingParams, engine::SequenceRequest};

const GOLDEN: &str = include_str!("../../tests/golden/demo.json");

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

/// A prompt and its greedy answer.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Case {
    pub(super) name: String,
    prompt_ids: Vec<u32>,
    pub(super) output_ids: Vec<u32>,
    /// The least distance of a chosen token's logit to the next, over the answer.
    pub(super) min_margin: f64,
}

impl Case {
    pub(super) fn request(&self, eos: &Arc<[u32]>) -> SequenceRequest {
        SequenceRequest {
            prompt_token_ids: self.prompt_ids.clone(),
            max_tokens: self.output_ids.len().max(1) as u32,
            sampling: SamplingParams::greedy(),
            stop_token_ids: Arc::clone(eos),
            logprobs: None,
            priority: 0,
        }
    }
}

/// Returns `num_cases` of the golden set, the shortest first.
pub(super) fn cases(num_cases: usize) -> serde_json::Result<Vec<Case>> {
    let mut cases = serde_json::from_str::<Golden>(GOLDEN)?.cases;
    cases.sort_by_key(|case| case.prompt_ids.len());
    cases.truncate(num_cases);
    Ok(cases)
}
