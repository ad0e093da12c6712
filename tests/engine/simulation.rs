//! Random loads on a KV cache that is nearly too small, one seed each, every step checked.
//!
//! Whatever the others do, each sequence must get what it would get alone: batched ≡ alone, chunked ≡ whole,
//! cached ≡ cold, preempted ≡ not, ahead of its tokens ≡ behind them, greedy or seeded.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use lacuna::completion::{FinishReason, SamplingParams};
use lacuna::engine::block_pool::BlockId;
use lacuna::engine::scheduler::{Scheduler, SchedulerOutput, StartedStep};
use lacuna::engine::sequence::{QueueKey, Sequence, SequenceId};
use lacuna::engine::{Batch, EngineLimits, Executor as _, SampledToken, SequenceRequest};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

use crate::fake_device::{FakeDevice, VOCAB_SIZE, truth};

const NUM_SEEDS: u64 = 600;

#[test]
fn every_sequence_gets_what_it_would_get_alone() {
    let mut seen = Seen::default();
    for seed in 0..NUM_SEEDS {
        let mut world = World::new(seed);
        let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
        assert!(outcome.is_ok(), "seed {seed}, step {}: see above", world.step);
        seen.add(&world.seen);
    }
    // A load that never got into trouble would prove nothing.
    let Seen { steps, ahead, wasted, preempted_pending, aborted_pending, .. } = seen;
    let Seen { preemptions, hits, shared_hits, chunks, aborted_waiting, aborted_running, .. } =
        seen;
    for count in [preemptions, hits, shared_hits, chunks, aborted_waiting, aborted_running] {
        assert!(count > NUM_SEEDS / 2, "too few of one kind: {seen:?}");
    }
    for count in [wasted, preempted_pending, aborted_pending] {
        assert!(count > NUM_SEEDS / 20, "too few of one kind: {seen:?}");
    }
    assert!(steps > 20 * NUM_SEEDS && ahead > 5 * NUM_SEEDS, "{seen:?}");
}

/// What happened, to know that the load was hard.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    steps: u64,
    preemptions: u64,
    /// Admissions that found blocks.
    hits: u64,
    /// Admissions that found blocks which were written in the same step.
    shared_hits: u64,
    /// Parts of a sequence that were not its last.
    chunks: u64,
    aborted_waiting: u64,
    aborted_running: u64,
    /// Steps that were started before the one before was finished.
    ahead: u64,
    /// Tokens of sequences that had ended.
    wasted: u64,
    /// Sequences that lost their blocks, or whose client went, while their token was being sampled.
    preempted_pending: u64,
    aborted_pending: u64,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.preemptions += other.preemptions;
        self.hits += other.hits;
        self.shared_hits += other.shared_hits;
        self.chunks += other.chunks;
        self.aborted_waiting += other.aborted_waiting;
        self.aborted_running += other.aborted_running;
        self.ahead += other.ahead;
        self.wasted += other.wasted;
        self.preempted_pending += other.preempted_pending;
        self.aborted_pending += other.aborted_pending;
    }
}

/// A sequence to come.
struct Arrival {
    step: u64,
    request: SequenceRequest,
    seed: u64,
    /// Steps after the arrival at which the client goes away.
    patience: Option<u64>,
}

struct World {
    limits: EngineLimits,
    scheduler: Scheduler,
    batch: Batch,
    device: FakeDevice,
    /// The step under way, and whether its tokens can be followed.
    ahead: Option<(StartedStep, bool)>,
    arrivals: Vec<Arrival>,
    outputs: BTreeMap<usize, (Vec<SampledToken>, Option<FinishReason>)>,
    num_cached_tokens: BTreeMap<SequenceId, u32>,
    num_preemptions: BTreeMap<SequenceId, u32>,
    step: u64,
    num_steps_max: u64,
    seen: Seen,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
        let arrivals = dice.arrivals();
        let block_size = [1, 2, 3, 4, 8][dice.below(5)];
        let num_seqs_max = 1 + dice.below(6);
        let num_slots_min = arrivals
            .iter()
            .map(|arrival| {
                arrival.request.prompt_token_ids.len() + arrival.request.max_tokens as usize
            })
            .max()
            .unwrap_or(1);
        // Every other time the cache just fits the largest sequence, less the token that is never computed.
        let num_blocks = (num_slots_min - 1).div_ceil(block_size) + dice.below(2) * dice.below(12);
        let limits = EngineLimits {
            num_seqs_max,
            num_batched_tokens_max: num_seqs_max + dice.below(24),
            block_size,
            num_blocks,
            context_tokens_max: 256,
            num_queued_max: 256,
            has_prefix_cache: dice.below(4) > 0,
            vocab_size: VOCAB_SIZE,
        };
        let num_tokens = |arrival: &Arrival| {
            (arrival.request.prompt_token_ids.len() + arrival.request.max_tokens as usize) as u64
        };
        let last_arrival = arrivals.iter().map(|arrival| arrival.step).max().unwrap_or(0);
        Self {
            limits,
            scheduler: Scheduler::new(&limits),
            batch: Batch::default(),
            device: FakeDevice::new(num_blocks, block_size).running_ahead(dice.below(2) == 0),
            ahead: None,
            // The first in the order of service gains a token a step. An arrival of higher priority may undo others' work.
            num_steps_max: last_arrival + 2 * arrivals.iter().map(num_tokens).sum::<u64>(),
            outputs: (0..arrivals.len()).map(|id| (id, (Vec::new(), None))).collect(),
            num_cached_tokens: BTreeMap::new(),
            num_preemptions: BTreeMap::new(),
            arrivals,
            step: 0,
            seen: Seen::default(),
        }
    }

    fn run(&mut self) {
        while self.outputs.values().any(|(_, finish)| finish.is_none()) {
            assert!(self.step < self.num_steps_max, "starved after {} steps", self.step);
            self.arrive_and_leave();
            self.check_blocks();
            if !self.scheduler.is_empty() || self.ahead.is_some() {
                self.run_step();
                self.check_blocks();
            }
            self.step += 1;
        }
        // What was computed for nobody is thrown away.
        self.run_step();
        assert!(self.scheduler.is_empty() && self.ahead.is_none());
        assert_eq!(self.scheduler.kv_cache().pool().num_used(), 0, "blocks were not given back");
        for (id, (output, finish)) in &self.outputs {
            let arrival = &self.arrivals[*id];
            let (tokens, reason) = truth(&arrival.request, arrival.seed);
            if *finish == Some(FinishReason::Aborted) {
                assert_eq!(*output, tokens[..output.len()], "sequence {id}, aborted");
            } else {
                assert_eq!((output, *finish), (&tokens, Some(reason)), "sequence {id}");
            }
        }
    }

    fn arrive_and_leave(&mut self) {
        for (id, arrival) in self.arrivals.iter().enumerate() {
            let sequence_id = SequenceId(id as u64);
            if arrival.step == self.step {
                let mut request = arrival.request.clone();
                request.sampling.seed = Some(arrival.seed);
                self.scheduler.add(Sequence::new(sequence_id, request));
            }
            let leaves = arrival.patience.map(|patience| arrival.step + patience);
            if leaves == Some(self.step) {
                let is_waiting = self.scheduler.waiting().any(|other| other.id() == sequence_id);
                let mut running = self.scheduler.running().iter();
                let is_pending =
                    running.any(|other| other.id() == sequence_id && is_pending(other));
                self.seen.aborted_pending += u64::from(is_pending);
                let Some(update) = self.scheduler.abort(sequence_id) else { continue };
                self.seen.aborted_waiting += u64::from(is_waiting);
                self.seen.aborted_running += u64::from(!is_waiting);
                self.outputs.get_mut(&id).unwrap().1 = update.finish;
            }
        }
    }

    fn run_step(&mut self) {
        let Some((step, can_be_followed)) = self.ahead.take().or_else(|| self.start_step()) else {
            return;
        };
        if can_be_followed && self.device.runs_ahead() {
            self.ahead = self.start_step();
            self.check_blocks();
        }
        self.seen.ahead += u64::from(self.ahead.is_some());
        let tokens = self.device.finish().unwrap();
        let updates = self.scheduler.finish(&step, tokens);
        self.seen.wasted += (step.num_rows() - updates.len()) as u64;
        for update in updates {
            let (tokens, finish) = self.outputs.get_mut(&(update.id.0 as usize)).unwrap();
            assert_eq!(*finish, None, "spoke after its end");
            let cached =
                self.num_cached_tokens.entry(update.id).or_insert(update.num_cached_tokens);
            assert_eq!(update.num_cached_tokens, *cached, "the report of the prefix changed");
            let preempted = self.num_preemptions.get(&update.id).copied().unwrap_or(0);
            assert_eq!(update.num_preemptions, preempted, "preemptions are counted");
            tokens.extend(update.token);
            *finish = update.finish;
            let num_prompt_tokens =
                self.arrivals[update.id.0 as usize].request.prompt_token_ids.len();
            assert!((update.num_cached_tokens as usize) < num_prompt_tokens);
        }
    }

    fn start_step(&mut self) -> Option<(StartedStep, bool)> {
        let running = self.scheduler.running();
        let first_running = running.iter().map(|sequence| self.key(sequence)).min();
        let num_pending = running.iter().filter(|sequence| is_pending(sequence)).count();
        let before: Vec<SequenceId> = running.iter().map(Sequence::id).collect();
        let output = self.scheduler.schedule();
        if output.num_scheduled_tokens.is_empty() {
            return None;
        }
        let running = self.scheduler.running();
        let is_running = |id: &SequenceId| running.iter().any(|other| other.id() == *id);
        for id in before.into_iter().filter(|id| !is_running(id)) {
            *self.num_preemptions.entry(id).or_default() += 1;
        }
        let num_still_pending = running.iter().filter(|sequence| is_pending(sequence)).count();
        self.seen.preempted_pending += (num_pending - num_still_pending) as u64;
        self.check_order(&output, first_running);
        self.spoil_worthless_blocks();
        self.batch.fill(&output, &self.scheduler);
        assert!(self.batch.num_tokens() <= self.limits.num_batched_tokens_max, "budget");
        self.device.start(&self.batch).unwrap();
        Some((self.scheduler.start(&output), self.batch.can_be_followed()))
    }

    /// Budgets, progress of all, and the order of service.
    fn check_order(&mut self, output: &SchedulerOutput, first_running: Option<QueueKey>) {
        let running = self.scheduler.running();
        let counts = &output.num_scheduled_tokens;
        assert_eq!(counts.len(), running.len(), "each running sequence is part of the step");
        assert!(!running.is_empty() && running.len() <= self.limits.num_seqs_max);
        assert!(counts.iter().all(|num_tokens| *num_tokens > 0), "each running sequence moves");
        assert!(output.num_preempted == 0 || output.num_admitted == 0, "blocks taken back at once");
        let keys: Vec<QueueKey> = running.iter().map(|sequence| self.key(sequence)).collect();
        assert!(
            first_running.is_none_or(|first| keys.contains(&first)),
            "the first lost its blocks"
        );
        let first_waiting = self.scheduler.waiting().map(|sequence| self.key(sequence)).min();
        let (old, admitted) = keys.split_at(keys.len() - output.num_admitted);
        for key in admitted {
            assert!(first_waiting.is_none_or(|first| *key < first), "overtaken in the queue");
        }
        if output.num_preempted > 0 {
            let num_behind = |key: &QueueKey| {
                self.scheduler.waiting().filter(|other| self.key(other) > *key).count()
            };
            assert!(old.iter().all(|key| num_behind(key) >= output.num_preempted), "not the last");
        }
        self.seen.steps += 1;
        self.seen.preemptions += output.num_preempted as u64;
        for (sequence, num_tokens) in running.iter().zip(counts) {
            self.seen.chunks += u64::from(*num_tokens < sequence.num_uncomputed_tokens());
        }
        self.count_hits(output);
    }

    /// The place in the order of service, from what was asked for.
    fn key(&self, sequence: &Sequence) -> QueueKey {
        let priority = self.arrivals[sequence.id().0 as usize].request.priority;
        QueueKey { priority, id: sequence.id() }
    }

    fn count_hits(&mut self, output: &SchedulerOutput) {
        let block_size = self.limits.block_size;
        let running = self.scheduler.running();
        let num_old = running.len() - output.num_admitted;
        for (index, sequence) in running.iter().enumerate().skip(num_old) {
            let found =
                &sequence.block_table().blocks()[..sequence.num_computed_tokens() / block_size];
            self.seen.hits += u64::from(!found.is_empty());
            let is_shared_now = running[..index].iter().any(|other| {
                let first_new = other.num_computed_tokens() / block_size;
                found.iter().any(|block| other.block_table().blocks()[first_new..].contains(block))
            });
            self.seen.shared_hits += u64::from(is_shared_now);
        }
    }

    /// A block is free or referenced, never both; the references are those of the running sequences' tables.
    fn check_blocks(&self) {
        let pool = self.scheduler.kv_cache().pool();
        let mut num_references = vec![0; pool.num_blocks()];
        for sequence in self.scheduler.running() {
            let num_needed = sequence.num_computed_tokens().div_ceil(self.limits.block_size);
            assert!(sequence.block_table().len() >= num_needed, "computed tokens have no slot");
            for block in sequence.block_table().blocks() {
                num_references[block.index()] += 1;
            }
        }
        assert!(self.scheduler.waiting().all(|sequence| sequence.block_table().is_empty()));
        for (block, expected) in (0..).map(BlockId).zip(&num_references) {
            assert_eq!(pool.num_references(block), *expected, "references of {block:?}");
        }
        let num_used = num_references.iter().filter(|count| **count > 0).count();
        assert_eq!((pool.num_used(), pool.num_free()), (num_used, pool.num_blocks() - num_used));
    }

    /// What nobody holds and nobody can find may hold anything.
    fn spoil_worthless_blocks(&mut self) {
        let kv_cache = self.scheduler.kv_cache();
        for block in (0..self.limits.num_blocks as u32).map(BlockId) {
            let is_findable = kv_cache.prefix_cache().is_some_and(|cache| cache.contains(block));
            if kv_cache.pool().num_references(block) == 0 && !is_findable {
                self.device.spoil(block.0);
            }
        }
    }
}

/// Returns whether a sequence's last token is being sampled.
fn is_pending(sequence: &Sequence) -> bool {
    sequence.num_known_tokens() < sequence.num_tokens()
}

/// Random choices of a load.
struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }

    fn tokens(&mut self, num: usize) -> Vec<u32> {
        (0..num).map(|_| self.below(VOCAB_SIZE as usize) as u32).collect()
    }

    /// Prompts begin with parts of the same few files, so that they share blocks; some come `n` times at once.
    fn arrivals(&mut self) -> Vec<Arrival> {
        let files: Vec<Vec<u32>> = (0..3).map(|_| self.tokens(40)).collect();
        let mut arrivals = Vec::new();
        for _ in 0..=self.below(16) {
            let file = &files[self.below(files.len())];
            let mut prompt = file[..self.below(file.len())].to_vec();
            let num_own = 1 + self.below(6);
            prompt.extend(self.tokens(num_own));
            let request = self.request(prompt);
            let step = self.below(40) as u64;
            for seed in 0..=(self.below(6) / 4) as u64 {
                let patience = (self.below(4) == 0).then(|| self.below(30) as u64);
                arrivals.push(Arrival { step, request: request.clone(), seed, patience });
            }
        }
        arrivals
    }

    fn request(&mut self, prompt_token_ids: Vec<u32>) -> SequenceRequest {
        SequenceRequest {
            prompt_token_ids,
            max_tokens: 1 + self.below(24) as u32,
            sampling: self.sampling(),
            stop_token_ids: if self.below(3) == 0 { [3, 7].into() } else { [].into() },
            logprobs: (self.below(4) == 0).then(|| self.below(4) as u32),
            priority: [-1, 0, 0, 0, 1][self.below(5)],
            adapter: [None, None, Some(0), Some(3)][self.below(4)],
        }
    }

    fn sampling(&mut self) -> SamplingParams {
        if self.below(3) == 0 {
            return SamplingParams::greedy();
        }
        SamplingParams {
            temperature: [0.0, 0.4, 1.0][self.below(3)],
            top_k: [0, 5][self.below(2)],
            top_p: [1.0, 0.8][self.below(2)],
            min_p: [0.0, 0.05][self.below(2)],
            repetition_penalty: [1.0, 1.3][self.below(2)],
            presence_penalty: [0.0, 0.5][self.below(2)],
            frequency_penalty: [0.0, 0.25][self.below(2)],
            logit_bias: if self.below(4) == 0 { vec![(5, 2.0)] } else { Vec::new() },
            seed: None,
        }
    }
}
