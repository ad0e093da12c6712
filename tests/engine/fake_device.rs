//! A device whose tokens give away every mistake in a batch, and the truth to compare it with.
//!
//! It is a decoder of two layers with the data flow of a real one and hashes in place of arithmetic. A token's logits
//! depend on each token before it, on its position, its adapter and the order, all read back through block tables and slots
//! from paged memory: a block mixed up, stale or shared by mistake, a wrong position, slot or length, and all that
//! follows is different.

use std::collections::VecDeque;

use lacuna::completion::{FinishReason, SamplingParams};
use lacuna::engine::sequence::SequenceId;
use lacuna::engine::{
    Batch, Executor, ExecutorError, LAST_SAMPLED, NO_ADAPTER, SampledToken, Sampler, SamplingRow,
    SequenceRequest,
};

/// Number of token ids of the fake model.
pub(crate) const VOCAB_SIZE: u32 = 24;

/// Paged memory of two layers, and the sampler of the real engine.
#[derive(Debug)]
pub(crate) struct FakeDevice {
    block_size: usize,
    layers: [Vec<u64>; 2],
    sampler: Sampler,
    /// Whether steps may be started before the last one is finished.
    runs_ahead: bool,
    /// Of each step that was not finished.
    started: VecDeque<Vec<SampledToken>>,
    /// Of the step before.
    last_sampled: Vec<u32>,
}

impl FakeDevice {
    pub(crate) fn new(num_blocks: usize, block_size: usize) -> Self {
        let memory = vec![GARBAGE; num_blocks * block_size];
        let sampler = Sampler::new(VOCAB_SIZE as usize);
        Self {
            block_size,
            layers: [memory.clone(), memory],
            sampler,
            runs_ahead: false,
            started: VecDeque::new(),
            last_sampled: Vec::new(),
        }
    }

    /// Lets a step be started before the last one is finished, or does not.
    pub(crate) fn running_ahead(self, runs_ahead: bool) -> Self {
        Self { runs_ahead, ..self }
    }

    /// Makes a block unreadable.
    pub(crate) fn spoil(&mut self, block: u32) {
        let start = block as usize * self.block_size;
        for layer in &mut self.layers {
            layer[start..start + self.block_size].fill(GARBAGE);
        }
    }

    /// The attention of one token: folds what a layer holds at the positions up to its own.
    fn attend(&self, layer: usize, batch: &Batch, sequence: usize, token: usize) -> u64 {
        let num_behind = batch.cu_seqlens_q[sequence + 1] as usize - token - 1;
        let num_visible = batch.context_lens[sequence] as usize - num_behind;
        let width = batch.max_blocks_per_seq;
        let table = &batch.block_tables[sequence * width..(sequence + 1) * width];
        (0..num_visible).fold(0, |sum, position| {
            let block = table[position / self.block_size] as usize;
            let value = self.layers[layer][block * self.block_size + position % self.block_size];
            assert_ne!(value, GARBAGE, "read a slot that was never written");
            mix(sum, value)
        })
    }
}

impl Executor for FakeDevice {
    fn start(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        assert!(self.started.len() <= usize::from(self.runs_ahead), "too many steps under way");
        check_shapes(batch);
        for (token, slot) in batch.slot_mapping.iter().enumerate() {
            let id = match batch.token_ids[token] {
                id if id & LAST_SAMPLED == 0 => id,
                row => {
                    assert_eq!(self.started.len(), 1, "a token that is known is told");
                    self.last_sampled[(row - LAST_SAMPLED) as usize]
                }
            };
            let adapter = batch.adapters.get(token).copied().unwrap_or(NO_ADAPTER);
            let key = key(id, batch.positions[token], adapter);
            self.layers[0][*slot as usize] = key;
        }
        let sequence_of = |token: usize| {
            batch.cu_seqlens_q.iter().position(|start| *start as usize > token).unwrap() - 1
        };
        for (token, slot) in batch.slot_mapping.iter().enumerate() {
            self.layers[1][*slot as usize] = self.attend(0, batch, sequence_of(token), token);
        }
        let mut tokens = Vec::new();
        for (row, sampling) in batch.logit_rows.iter().zip(&batch.sampling_rows) {
            let state = self.attend(1, batch, sequence_of(*row as usize), *row as usize);
            tokens.push(self.sampler.sample(&mut logits(state), sampling));
        }
        self.last_sampled = tokens.iter().map(|token| token.id).collect();
        self.started.push_back(tokens);
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<SampledToken>, ExecutorError> {
        Ok(self.started.pop_front().unwrap())
    }

    fn runs_ahead(&self) -> bool {
        self.runs_ahead
    }
}

fn check_shapes(batch: &Batch) {
    let num_tokens = batch.num_tokens();
    assert_eq!(batch.positions.len(), num_tokens);
    assert_eq!(batch.slot_mapping.len(), num_tokens);
    assert_eq!(batch.cu_seqlens_q.len(), batch.num_seqs() + 1);
    assert_eq!(
        (batch.cu_seqlens_q[0], *batch.cu_seqlens_q.last().unwrap()),
        (0, num_tokens as u32)
    );
    assert!(batch.cu_seqlens_q.is_sorted_by(|a, b| a < b), "each sequence computes a token");
    assert_eq!(batch.block_tables.len(), batch.num_seqs() * batch.max_blocks_per_seq);
    assert_eq!(batch.logit_rows.len(), batch.sampling_rows.len());
    assert!(batch.adapters.is_empty() || batch.adapters.len() == num_tokens);
    let mut slots = batch.slot_mapping.clone();
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), num_tokens, "two tokens share a slot");
}

/// What a slot holds that no token was written to.
const GARBAGE: u64 = u64::MAX;

/// A hash of two values in their order (the finaliser of `SplitMix64`).
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ b.wrapping_add(0xD1B5_4A32_D192_ED03);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What a token leaves in the first layer: its adapter has changed it.
fn key(id: u32, position: u32, adapter: u32) -> u64 {
    mix(mix(u64::from(id), u64::from(adapter)), u64::from(position))
}

/// Logits between -4 and 4.
fn logits(state: u64) -> Vec<f32> {
    (0..u64::from(VOCAB_SIZE)).map(|id| (mix(state, id) % 8000) as f32 / 1000.0 - 4.0).collect()
}

/// What a sequence must give, computed from its tokens alone: no batch, no blocks, no cache.
pub(crate) fn truth(request: &SequenceRequest, seed: u64) -> (Vec<SampledToken>, FinishReason) {
    let mut sampler = Sampler::new(VOCAB_SIZE as usize);
    let mut tokens = request.prompt_token_ids.clone();
    let (mut first, mut second, mut position) = (0, 0, 0);
    let mut output = Vec::new();
    loop {
        for token in &tokens[position..] {
            let adapter = request.adapter.unwrap_or(NO_ADAPTER);
            first = mix(first, key(*token, position as u32, adapter));
            second = mix(second, first);
            position += 1;
        }
        let row = SamplingRow {
            sequence_id: SequenceId(0),
            params: SamplingParams { seed: Some(seed), ..request.sampling.clone() }.into(),
            num_generated: output.len() as u32,
            history: if request.sampling.has_penalties() { tokens.clone() } else { Vec::new() },
            num_prompt_tokens: request.prompt_token_ids.len(),
            logprobs: request.logprobs,
        };
        let token = sampler.sample(&mut logits(second), &row);
        if request.stop_token_ids.contains(&token.id) {
            return (output, FinishReason::Stop);
        }
        tokens.push(token.id);
        output.push(token);
        if output.len() == request.max_tokens as usize {
            return (output, FinishReason::Length);
        }
    }
}

/// A request for a few greedy tokens.
pub(crate) fn greedy(prompt_token_ids: Vec<u32>, max_tokens: u32) -> SequenceRequest {
    SequenceRequest {
        prompt_token_ids,
        max_tokens,
        sampling: SamplingParams::greedy(),
        stop_token_ids: [].into(),
        logprobs: None,
        priority: 0,
        adapter: None,
    }
}
