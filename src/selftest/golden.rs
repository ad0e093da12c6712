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
            adapter: None,
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

/// Returns the requests with settings that leave no part of a sampler out, in turn.
pub(super) fn sampled(requests: &[SequenceRequest]) -> Vec<SequenceRequest> {
    let plain = SamplingParams { temperature: 0.9, seed: Some(7), ..SamplingParams::greedy() };
    let ways = [
        plain.clone(),
        SamplingParams { top_k: 20, seed: Some(11), ..plain.clone() },
        SamplingParams { top_p: 0.8, temperature: 1.3, ..plain.clone() },
        SamplingParams { min_p: 0.1, top_k: 3, top_p: 0.5, ..plain.clone() },
        SamplingParams {
            repetition_penalty: 1.3,
            presence_penalty: 0.3,
            frequency_penalty: 0.2,
            seed: Some(13),
            ..plain
        },
        SamplingParams {
            logit_bias: vec![(220, 4.0), (198, -2.0)],
            repetition_penalty: 1.1,
            ..SamplingParams::greedy()
        },
    ];
    let settings = ways.iter().cycle();
    let requests = requests.iter().zip(settings);
    requests
        .map(|(request, way)| SequenceRequest {
            max_tokens: 12,
            sampling: way.clone(),
            ..request.clone()
        })
        .collect()
}
