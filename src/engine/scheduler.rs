//! Decides in each step who computes how many tokens.
//!
//! There are no phases. A running sequence catches up with its tokens as far as the step's budget goes, be that one
//! token after the last one sampled, a chunk of a long prompt, or all of it again after a preemption.
//!
//! - Running sequences come first, in the order of service. Each that stands behind keeps one token of the budget, so
//!   all of them move in every step, and a decode never waits for a prompt.
//! - Where blocks run out, the last of the order gives all of its own back and waits to compute them again. The first
//!   always has room, because a sequence that could not fit alone is never taken.
//! - What is left of the budget admits those that wait, strictly in order: whoever does not fit holds up those behind,
//!   so a long prompt cannot be overtaken for ever.
//!
//! A step may be planned while the one before is under way. Everything but the sampled tokens is known then: sequences go
//! on as if they had them, and one that turns out to have ended has computed a token for nothing.

use std::collections::BTreeMap;

use crate::completion::FinishReason;
use crate::engine::EngineLimits;
use crate::engine::executor::SampledToken;
use crate::engine::kv_cache_manager::KvCacheManager;
use crate::engine::sequence::{QueueKey, Sequence, SequenceId, SequenceStatus, SequenceUpdate};

/// A step, planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerOutput {
    /// Tokens to compute, at least 1, for each of [`Scheduler::running`] in its order.
    pub num_scheduled_tokens: Vec<usize>,
    /// Sequences that joined the batch, for the first time or again: the last of [`Scheduler::running`].
    pub num_admitted: usize,
    /// Sequences that lost their blocks.
    pub num_preempted: usize,
}

/// A step under way: whose token each row of its logits will be.
#[derive(Debug, PartialEq, Eq)]
pub struct StartedStep {
    rows: Vec<QueueKey>,
}

impl StartedStep {
    /// Returns the number of tokens that the step will bring.
    pub fn num_rows(&self) -> usize {
        self.rows.len()
    }
}

/// All sequences of the engine, and whose turn it is.
#[derive(Debug)]
pub struct Scheduler {
    num_seqs_max: usize,
    num_batched_tokens_max: usize,
    kv_cache: KvCacheManager,
    waiting: BTreeMap<QueueKey, Sequence>,
    /// In the order of service when a step is planned; those that it admits stand at the end until the next.
    running: Vec<Sequence>,
    /// Those whose last token is being sampled: they have no blocks, and are told it when it is known.
    ending: Vec<Sequence>,
}

impl Scheduler {
    /// Makes a scheduler without sequences.
    ///
    /// # Panics
    /// Where the limits break a rule of [`EngineLimits::assert_valid`].
    pub fn new(limits: &EngineLimits) -> Self {
        limits.assert_valid();
        Self {
            num_seqs_max: limits.num_seqs_max,
            num_batched_tokens_max: limits.num_batched_tokens_max,
            kv_cache: KvCacheManager::new(
                limits.num_blocks,
                limits.block_size,
                limits.has_prefix_cache,
            ),
            waiting: BTreeMap::new(),
            running: Vec::with_capacity(limits.num_seqs_max),
            ending: Vec::new(),
        }
    }

    /// Returns the sequences of the batch.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// Returns the sequences that wait, preempted ones included, in the order of service.
    pub fn waiting(&self) -> impl ExactSizeIterator<Item = &Sequence> {
        self.waiting.values()
    }

    /// Returns the KV cache's bookkeeping.
    pub fn kv_cache(&self) -> &KvCacheManager {
        &self.kv_cache
    }

    /// Returns whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.ending.is_empty()
    }

    /// Takes a sequence that waits.
    ///
    /// # Panics
    /// Where it could not run even with all blocks.
    pub fn add(&mut self, sequence: Sequence) {
        let num_slots = self.kv_cache.pool().num_blocks() * self.kv_cache.block_size();
        assert!(sequence.num_computed_tokens_max() <= num_slots, "a sequence fits in all blocks");
        self.waiting.insert(sequence.queue_key(), sequence);
    }

    /// Ends a sequence and frees its blocks, wherever it stands; not between planning a step and its start. A step under way
    /// still writes to them: it does so before the next step, which may give them to another.
    pub fn abort(&mut self, id: SequenceId) -> Option<SequenceUpdate> {
        let mut sequence = self.take(|key| key.id == id)?;
        Some(sequence.finish(FinishReason::Aborted))
    }

    /// Takes a sequence out, wherever it stands, and frees its blocks.
    fn take(&mut self, is_wanted: impl Fn(QueueKey) -> bool) -> Option<Sequence> {
        let position = |sequences: &[Sequence]| {
            sequences.iter().position(|sequence| is_wanted(sequence.queue_key()))
        };
        let mut sequence = if let Some(index) = position(&self.running) {
            self.running.remove(index)
        } else if let Some(index) = position(&self.ending) {
            self.ending.remove(index)
        } else {
            let key = *self.waiting.keys().find(|key| is_wanted(**key))?;
            self.waiting.remove(&key)?
        };
        self.kv_cache.free(&mut sequence);
        Some(sequence)
    }

    /// Finds a sequence, wherever it stands.
    fn find(&mut self, key: QueueKey) -> Option<&mut Sequence> {
        let mut active = self.running.iter_mut().chain(&mut self.ending);
        active.find(|sequence| sequence.queue_key() == key).or_else(|| self.waiting.get_mut(&key))
    }

    /// Plans a step.
    pub fn schedule(&mut self) -> SchedulerOutput {
        self.running.sort_unstable_by_key(Sequence::queue_key);
        let mut output = SchedulerOutput {
            num_scheduled_tokens: Vec::with_capacity(self.num_seqs_max),
            num_admitted: 0,
            num_preempted: 0,
        };
        let budget = self.schedule_running(&mut output);
        // Who has just lost its blocks must not take them back from those that they were freed for.
        if output.num_preempted == 0 {
            self.admit_waiting(budget, &mut output);
        }
        output
    }

    /// Goes on as if a planned step was done, which is about to be: all is known of it but its tokens.
    pub fn start(&mut self, output: &SchedulerOutput) -> StartedStep {
        let mut rows = Vec::with_capacity(self.running.len());
        let mut num_scheduled = output.num_scheduled_tokens.iter();
        let kv_cache = &mut self.kv_cache;
        let ending = self.running.extract_if(.., |sequence| {
            sequence.num_computed_tokens += num_scheduled.next().copied().unwrap_or(0);
            if sequence.num_uncomputed_tokens() > 0 {
                return false;
            }
            let row = rows.len() as u32;
            rows.push(sequence.queue_key());
            let goes_on = sequence.expect(row);
            if !goes_on {
                kv_cache.free(sequence);
            }
            !goes_on
        });
        self.ending.extend(ending);
        StartedStep { rows }
    }

    /// Records the tokens of a step, in the order of its rows; those of sequences that have ended since are of no use.
    ///
    /// # Panics
    /// Where there is not one token for each row.
    pub fn finish(&mut self, step: &StartedStep, tokens: Vec<SampledToken>) -> Vec<SequenceUpdate> {
        assert_eq!(tokens.len(), step.num_rows(), "each row gets a token");
        let mut updates = Vec::with_capacity(tokens.len());
        for (key, token) in step.rows.iter().zip(tokens) {
            let Some(sequence) = self.find(*key) else { continue };
            let update = sequence.receive(token);
            if update.finish.is_some() {
                self.take(|other| other == *key);
            }
            updates.push(update);
        }
        updates
    }

    /// Gives each running sequence its tokens, and returns what is left of the budget.
    fn schedule_running(&mut self, output: &mut SchedulerOutput) -> usize {
        let mut budget = self.num_batched_tokens_max;
        let mut index = 0;
        while index < self.running.len() {
            let num_behind = self.running.len() - index - 1;
            let sequence = &mut self.running[index];
            let num_tokens = sequence.num_uncomputed_tokens().min(budget - num_behind);
            if self.kv_cache.allocate_slots(sequence, num_tokens) {
                output.num_scheduled_tokens.push(num_tokens);
                budget -= num_tokens;
                index += 1;
            } else {
                self.preempt_last(output);
            }
        }
        budget
    }

    /// Takes the blocks of the last running sequence, which may be the one that wanted more.
    fn preempt_last(&mut self, output: &mut SchedulerOutput) {
        let Some(mut sequence) = self.running.pop() else { return };
        self.kv_cache.free(&mut sequence);
        sequence.status = SequenceStatus::Preempted;
        sequence.num_preemptions += 1;
        output.num_preempted += 1;
        self.waiting.insert(sequence.queue_key(), sequence);
    }

    fn admit_waiting(&mut self, mut budget: usize, output: &mut SchedulerOutput) {
        while budget > 0 && self.running.len() < self.num_seqs_max {
            let Some(mut first) = self.waiting.first_entry() else { return };
            if !self.kv_cache.take_prefix(first.get_mut()) {
                return;
            }
            let mut sequence = first.remove();
            let num_tokens = sequence.num_uncomputed_tokens().min(budget);
            let has_slots = self.kv_cache.allocate_slots(&mut sequence, num_tokens);
            assert!(has_slots, "an admitted sequence has room for all of its tokens");
            if sequence.status == SequenceStatus::Waiting {
                sequence.num_cached_tokens = sequence.num_computed_tokens as u32;
            }
            sequence.status = SequenceStatus::Running;
            output.num_scheduled_tokens.push(num_tokens);
            output.num_admitted += 1;
            budget -= num_tokens;
            self.running.push(sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduler(num_batched_tokens_max: usize, num_blocks: usize) -> Scheduler {
        Scheduler::new(&EngineLimits {
            num_seqs_max: 3,
            num_batched_tokens_max,
            block_size: 2,
            num_blocks,
            context_tokens_max: 64,
            num_queued_max: 1,
            has_prefix_cache: false,
            vocab_size: 10,
        })
    }

    /// Runs a step that samples a 7 wherever it may, and returns who computed how many tokens.
    fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize)> {
        let output = scheduler.schedule();
        let running = scheduler.running().iter().zip(output.num_scheduled_tokens.clone());
        let counts: Vec<_> =
            running.clone().map(|(sequence, num)| (sequence.id().0, num)).collect();
        let caught_up = running.filter(|(sequence, num)| sequence.num_uncomputed_tokens() == *num);
        let tokens = caught_up.map(|_| SampledToken { id: 7, logprob: None }).collect();
        let step = scheduler.start(&output);
        scheduler.finish(&step, tokens);
        counts
    }

    #[test]
    fn a_long_prompt_comes_in_chunks() {
        let mut scheduler = scheduler(8, 32);
        scheduler.add(Sequence::sample(0, vec![1; 20], 2));
        for expected in [8, 8, 4, 1] {
            assert_eq!(step(&mut scheduler), [(0, expected)]);
        }
        assert!(scheduler.is_empty());
    }

    #[test]
    fn a_decode_never_waits_for_a_prompt() {
        let mut scheduler = scheduler(4, 32);
        scheduler.add(Sequence::sample(5, vec![1], 9));
        assert_eq!(step(&mut scheduler), [(5, 1)]);
        // Before it in the order of service, and longer than the budget.
        scheduler.add(Sequence::sample(4, vec![1; 8], 9));
        assert_eq!(step(&mut scheduler), [(5, 1), (4, 3)]);
        assert_eq!(step(&mut scheduler), [(4, 3), (5, 1)]);
        assert_eq!(step(&mut scheduler), [(4, 2), (5, 1)]);
    }

    #[test]
    fn the_last_gives_its_blocks_to_the_first_and_comes_back() {
        let mut scheduler = scheduler(16, 4);
        scheduler.add(Sequence::sample(0, vec![1; 4], 4));
        scheduler.add(Sequence::sample(1, vec![1; 4], 2));
        let steps = [vec![(0, 4), (1, 4)], vec![(0, 1)], vec![(0, 1)], vec![(0, 1)], vec![(1, 5)]];
        for expected in steps {
            assert_eq!(step(&mut scheduler), expected);
        }
        assert!(scheduler.is_empty());
        assert_eq!(scheduler.kv_cache().pool().num_used(), 0);
    }

    #[test]
    fn nobody_overtakes_who_waits_for_room() {
        let mut scheduler = scheduler(16, 4);
        scheduler.add(Sequence::sample(0, vec![1; 4], 2));
        assert_eq!(step(&mut scheduler), [(0, 4)]);
        scheduler.add(Sequence::sample(1, vec![1; 6], 1));
        scheduler.add(Sequence::sample(2, vec![1], 1));
        assert_eq!(step(&mut scheduler), [(0, 1)]);
        assert_eq!(step(&mut scheduler), [(1, 6), (2, 1)]);
    }

    #[test]
    fn an_abort_frees_blocks_wherever_the_sequence_stands() {
        let mut scheduler = scheduler(16, 4);
        scheduler.add(Sequence::sample(0, vec![1; 4], 2));
        step(&mut scheduler);
        scheduler.add(Sequence::sample(1, vec![1; 6], 1));
        for id in [1, 0] {
            let update = scheduler.abort(SequenceId(id)).unwrap();
            assert_eq!((update.token, update.finish), (None, Some(FinishReason::Aborted)));
        }
        assert_eq!(scheduler.abort(SequenceId(0)), None);
        assert!(scheduler.is_empty());
        assert_eq!(scheduler.kv_cache().pool().num_used(), 0);
    }
}
