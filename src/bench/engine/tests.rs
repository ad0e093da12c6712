//! The measurement over an executor that counts.

use std::collections::VecDeque;

use super::*;
use crate::engine::SampledToken;

/// Answers each wanted row with the number of its step.
#[derive(Default)]
struct Counting {
    num_tokens: Vec<usize>,
    num_rows: Vec<usize>,
    started: VecDeque<usize>,
    /// Steps before one that fails.
    fails_after: Option<usize>,
}

impl Executor for Counting {
    fn start(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        if self.fails_after == Some(self.num_tokens.len()) {
            return Err(ExecutorError::Device("no memory is left".into()));
        }
        self.num_tokens.push(batch.num_tokens());
        self.num_rows.push(batch.logit_rows.len());
        self.started.push_back(batch.logit_rows.len());
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<SampledToken>, ExecutorError> {
        let num_rows = self.started.pop_front().expect("a step was started");
        let id = self.num_tokens.len() as u32;
        Ok(vec![SampledToken { id, logprob: None }; num_rows])
    }
}

/// Stops once it was asked so many times.
struct StopAfter(std::cell::Cell<usize>);

impl Watch for StopAfter {
    fn update(&mut self, _: usize, _: usize, _: &str) {}

    fn is_stopped(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

const PLAN: EnginePlan = EnginePlan {
    prompt_tokens: 10,
    gen_tokens: 3,
    batch: Vec::new(),
    prefill: Vec::new(),
    repeat: 2,
    max_num_batched_tokens: 8,
    block_size: 4,
    seed: 1,
};

const TRAFFIC: Traffic = Traffic {
    weight_bytes: 1000,
    experts: ExpertTraffic { num_bytes: 800, share: 0.25 },
    kv_bytes_per_token: 10,
};

fn run(plan: &EnginePlan, num_looks: usize) -> (Counting, Vec<BatchResult>) {
    let (executor, batches, _) = run_all(plan, num_looks);
    (executor, batches)
}

fn run_all(
    plan: &EnginePlan,
    num_looks: usize,
) -> (Counting, Vec<BatchResult>, Vec<PrefillResult>) {
    let mut executor = Counting::default();
    let mut watch = StopAfter(std::cell::Cell::new(num_looks));
    let measured = measure(&mut executor, plan, 100, TRAFFIC, &mut watch);
    assert!(measured.failure.is_none(), "{measured:?}");
    (executor, measured.batches, measured.prefills)
}

#[test]
fn every_batch_is_prefilled_in_chunks_and_decoded_in_steps() {
    let plan = EnginePlan { batch: vec![1, 2], ..PLAN };
    let (executor, results) = run(&plan, usize::MAX);
    let warm_up = [8, 2, 1, 1];
    let (one, two) = ([8, 2, 1, 1, 1], [8, 8, 4, 2, 2, 2]);
    assert_eq!(executor.num_tokens, [&warm_up[..], &one, &one, &two, &two].concat());
    // The first chunk of two prompts ends none, the second one, the third the other.
    assert_eq!(executor.num_rows[14..20], [0, 1, 1, 2, 2, 2]);
    let [one, two] = &results[..] else { panic!("{results:?}") };
    assert_eq!((one.batch, one.prefill.num_tokens, one.prefill.num_steps), (1, 10, 2));
    assert_eq!((two.batch, two.prefill.num_tokens, two.prefill.num_steps), (2, 20, 3));
    let decode = two.decode.as_ref().unwrap();
    assert_eq!((decode.phase.num_tokens, decode.phase.num_steps), (6, 3));
    assert_eq!(decode.phase.tokens_per_second.samples.len(), 2);
    // Contexts of 11, 12 and 13 tokens, twice each.
    // Two tokens leave out 0.75 * 0.75 of the experts.
    assert!((decode.bytes_per_step - (1000.0 + 350.0 + 24.0 * 10.0)).abs() < 1e-9);
    let speed = decode.bytes_per_step / decode.step_seconds.median;
    assert!((decode.bytes_per_second / speed - 1.0).abs() < 1e-9);
}

#[test]
fn behind_a_cached_prompt_its_end_is_computed_again() {
    let plan =
        EnginePlan { prompt_tokens: 20, max_num_batched_tokens: 40, batch: vec![2, 3], ..PLAN };
    let (executor, results) = run(&plan, usize::MAX);
    // The warm-up, then a prefill of two prompts, their ends, and three decodes.
    assert_eq!(executor.num_tokens[..9], [20, 16, 1, 1, 40, 32, 2, 2, 2]);
    let cached = results[0].cached.as_ref().unwrap();
    assert_eq!((cached.num_new_tokens, cached.step_seconds.samples.len()), (16, 2));
    assert_eq!(results[1].cached, None, "three ends have no room in a step");
}

#[test]
fn without_decoding_there_is_a_prefill_alone() {
    let (_, results) = run(&EnginePlan { gen_tokens: 0, batch: vec![1], ..PLAN }, usize::MAX);
    assert_eq!((results.len(), &results[0].decode), (1, &None));
}

#[test]
fn what_was_measured_before_the_end_is_kept() {
    // The warm-up looks 4 times, a repeat of one sequence 5 times, the end of a batch once.
    let plan = EnginePlan { batch: vec![1, 1], ..PLAN };
    let (_, results) = run(&plan, 4 + 5 + 2);
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].prefill.tokens_per_second.samples.len(), 1);
    assert_eq!(run(&plan, 2).1, []);
}

#[test]
fn what_was_measured_before_a_failure_is_kept() {
    // Four steps warm up, the two repeats of one sequence take five each.
    for (num_steps, num_batches) in [(2, 0), (4 + 10 + 3, 1), (4 + 3, 0)] {
        let mut executor = Counting { fails_after: Some(num_steps), ..Counting::default() };
        let mut watch = StopAfter(std::cell::Cell::new(usize::MAX));
        let plan = EnginePlan { batch: vec![1, 2, 4], ..PLAN };
        let measured = measure(&mut executor, &plan, 100, TRAFFIC, &mut watch);
        assert!(measured.failure.is_some(), "{measured:?}");
        assert_eq!((measured.batches.len(), executor.num_tokens.len()), (num_batches, num_steps));
    }
}

#[test]
fn the_plan_says_how_many_blocks_it_takes() {
    let plan = EnginePlan { batch: vec![1, 4, 2], ..PLAN };
    assert_eq!((plan.num_tokens_max(), plan.num_blocks()), (13, 16));
    // A prompt by itself counts where it is longer than a sequence of a batch, or takes more than all of them.
    let plan = EnginePlan { prefill: vec![9, 50], ..plan };
    assert_eq!((plan.num_tokens_at_end(), plan.num_tokens_max(), plan.num_blocks()), (13, 50, 16));
    let plan = EnginePlan { prefill: vec![70], ..plan };
    assert_eq!((plan.num_tokens_max(), plan.num_blocks()), (70, 18));
}

#[test]
fn prompts_by_themselves_are_prefilled_and_asked_again_behind_their_cache() {
    let plan =
        EnginePlan { batch: vec![1], prefill: vec![18, 16], max_num_batched_tokens: 16, ..PLAN };
    let (executor, batches, prefills) = run_all(&plan, usize::MAX);
    let (warm_up, batch) = ([10, 1, 1], [10, 1, 1, 1]);
    // Two chunks and the end again; the second prompt is no longer than such an end.
    let (long, short) = ([16, 2, 16], [16]);
    let steps = [&warm_up[..], &batch, &batch, &long, &long, &short, &short].concat();
    assert_eq!(executor.num_tokens, steps);
    assert_eq!((batches.len(), prefills.len()), (1, 2));
    let lengths: Vec<_> = prefills
        .iter()
        .map(|it| (it.prompt_tokens, it.prefill.num_tokens, it.prefill.num_steps))
        .collect();
    assert_eq!(lengths, [(18, 18, 2), (16, 16, 1)]);
    let cached = prefills[0].cached.as_ref().unwrap();
    assert_eq!((cached.num_new_tokens, cached.step_seconds.samples.len()), (16, 2));
    assert_eq!(prefills[1].cached, None);
}

#[test]
fn a_stop_keeps_the_prompts_that_were_measured() {
    let plan = EnginePlan { batch: Vec::new(), prefill: vec![8, 8], gen_tokens: 0, ..PLAN };
    // The warm-up's two chunks, two repeats of one step each, and the end of the first prompt: then the second is begun.
    let (_, batches, prefills) = run_all(&plan, 2 + 2 + 1);
    assert_eq!((batches.len(), prefills.len()), (0, 1));
    assert_eq!(prefills[0].prefill.tokens_per_second.samples.len(), 2);
}
