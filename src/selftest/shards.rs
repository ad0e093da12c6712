//! The embedded model cut over several ranks, against itself on one: the logits of prompts.

use models::{LanguageModel, Source, StepInput, load};

use crate::{
    engine::SequenceRequest,
    selftest::{BLOCK_SIZE, NUM_RANKS, Outcome, Plan, SelftestError, load_options},
};

/// Most that logits may differ, as a relative norm, on a device that computes in f32: other sums are in another order.
const LIMIT: f64 = 1e-4;

/// The same where operands are rounded to bf16, which has eight bits: a sum that is off by its last bit now and then is
/// rounded the other way.
const LIMIT_ROUNDED: f64 = 1e-2;

/// Compares each prompt's logits, computed whole and alone.
pub(super) fn logits(
    plan: &Plan,
    requests: &[SequenceRequest],
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), SelftestError> {
    let open = |num_ranks| {
        let options = load_options(plan, plan.options.graphs, num_ranks);
        load(Source::Demo, &options, &mut |_| {})
    };
    let (mut whole, mut sharded) = (open(1)?, open(NUM_RANKS)?);
    let (mut difference, mut norm) = (0.0, 0.0);
    for request in requests {
        let prompt = &request.prompt_token_ids;
        let found = last_logits(&mut *sharded, prompt)?;
        for (found, expected) in found.iter().zip(last_logits(&mut *whole, prompt)?) {
            difference += f64::from(found - expected).powi(2);
            norm += f64::from(expected).powi(2);
        }
    }
    let error = (difference / norm).sqrt();
    let limit = if plan.device.is_gpu() { LIMIT_ROUNDED } else { LIMIT };
    sink(Outcome {
        check: "shards".to_owned(),
        case: format!("{} prompts, {NUM_RANKS} ranks", requests.len()),
        against: "the whole model's logits".to_owned(),
        error: error.is_finite().then_some(error),
        limit,
        // Written so that NaN fails it.
        is_passed: error <= limit,
    });
    Ok(())
}

/// Computes the end of a prompt, as long as a step takes, in the first blocks of the cache.
fn last_logits(model: &mut dyn LanguageModel, prompt: &[u32]) -> Result<Vec<f32>, SelftestError> {
    let tokens = &prompt[prompt.len().saturating_sub(256)..];
    let places: Vec<u32> = (0..tokens.len() as u32).collect();
    let end = tokens.len() as u32;
    let blocks: Vec<u32> = (0..tokens.len().div_ceil(BLOCK_SIZE) as u32).collect();
    let input = StepInput {
        token_ids: tokens,
        positions: &places,
        slot_mapping: &places,
        cu_seqlens_q: &[0, end],
        context_lens: &[end],
        block_tables: &blocks,
        max_blocks_per_seq: blocks.len(),
        logit_rows: &[end - 1],
        adapters: &[],
    };
    Ok(model.forward(&input)?.to_vec())
}
