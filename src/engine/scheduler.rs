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

/// All sequences of the engine, and whose turn it is.
#[derive(Debug)]
pub struct Scheduler {
    num_seqs_max: usize,
    num_batched_tokens_max: usize,
    kv_cache: KvCacheManager,
    waiting: BTreeMap<QueueKey, Sequence>,
    /// In the order of service when a step is planned; those that it admits stand at the end until the next.
    running: Vec<Sequence>,
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
        self.waiting.is_empty() && self.running.is_empty()
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

    /// Ends a sequence and frees its blocks, wherever it stands; not between planning a step and its update.
    pub fn abort(&mut self, id: SequenceId) -> Option<SequenceUpdate> {
        let index = self.running.iter().position(|sequence| sequence.id() == id);
        let mut sequence = if let Some(index) = index {
            self.running.remove(index)
        } else {
            let key = *self.waiting.keys().find(|key| key.id == id)?;
            self.waiting.remove(&key)?
        };
        self.kv_cache.free(&mut sequence);
        Some(sequence.finish(FinishReason::Aborted))
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

    /// Records a step: one token for each sequence that has caught up, in the order of the batch.
    ///
    /// # Panics
    /// Where there is not one token for each.
    pub fn update(
        &mut self,
        output: &SchedulerOutput,
        tokens: Vec<SampledToken>,
    ) -> Vec<SequenceUpdate> {
        let mut updates = Vec::with_capacity(tokens.len());
        let mut tokens = tokens.into_iter();
        for (sequence, num_tokens) in self.running.iter_mut().zip(&output.num_scheduled_tokens) {
            sequence.num_computed_tokens += num_tokens;
            if sequence.num_uncomputed_tokens() == 0 {
                let token = tokens.next();
                assert!(token.is_some(), "a sequence that has caught up gets a token");
                updates.extend(token.map(|token| sequence.append(token)));
            }
        }
        assert!(tokens.next().is_none(), "a token belongs to a sequence");
        self.running.retain_mut(|sequence| {
            let is_finished = matches!(sequence.status, SequenceStatus::Finished(_));
            if is_finished {
                self.kv_cache.free(sequence);
            }
            !is_finished
        });
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
        scheduler.update(&output, tokens);
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
