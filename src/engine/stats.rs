//! What the engine's thread and its handles both see: counters, the places in the queue, and whether it lives.
//!
//! Only atomics: reading never waits for a step, and a step never waits for a reader. Figures of one snapshot may stem
//! from neighbouring moments.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::engine::scheduler::{Scheduler, SchedulerOutput};

/// Whether the engine takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// It does.
    Running,
    /// It finishes what it has, or has finished it.
    Draining,
    /// Its device failed.
    Dead,
}

/// What the engine is doing and has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineStats {
    /// Whether it takes requests.
    pub state: EngineState,
    /// Sequences taken and not yet begun; at most the queue's limit.
    pub num_queued: usize,
    /// Sequences that the scheduler holds back, preempted ones included.
    pub num_waiting: usize,
    /// Sequences of the batch.
    pub num_running: usize,
    /// Blocks that a sequence holds.
    pub num_blocks_used: usize,
    /// All blocks.
    pub num_blocks: usize,
    /// Steps done.
    pub num_steps: u64,
    /// Tokens of prompts of sequences that were begun.
    pub num_prompt_tokens: u64,
    /// Tokens of these prompts that the prefix cache held.
    pub num_cache_hit_tokens: u64,
    /// Tokens delivered.
    pub num_generated_tokens: u64,
    /// Times that a sequence lost its blocks.
    pub num_preemptions: u64,
}

/// The shared side of [`EngineStats`].
#[derive(Debug)]
pub(super) struct SharedStats {
    state: AtomicU8,
    num_queued_max: usize,
    num_queued: AtomicUsize,
    num_waiting: AtomicUsize,
    num_running: AtomicUsize,
    num_blocks_used: AtomicUsize,
    num_blocks: usize,
    num_steps: AtomicU64,
    num_prompt_tokens: AtomicU64,
    num_cache_hit_tokens: AtomicU64,
    num_generated_tokens: AtomicU64,
    num_preemptions: AtomicU64,
    /// Mean time between two sequences' ends while there is work; 0 where none has ended.
    sequence_micros: AtomicU64,
}

impl SharedStats {
    pub(super) fn new(num_queued_max: usize, num_blocks: usize) -> Self {
        Self {
            state: AtomicU8::new(EngineState::Running as u8),
            num_queued_max,
            num_queued: AtomicUsize::new(0),
            num_waiting: AtomicUsize::new(0),
            num_running: AtomicUsize::new(0),
            num_blocks_used: AtomicUsize::new(0),
            num_blocks,
            num_steps: AtomicU64::new(0),
            num_prompt_tokens: AtomicU64::new(0),
            num_cache_hit_tokens: AtomicU64::new(0),
            num_generated_tokens: AtomicU64::new(0),
            num_preemptions: AtomicU64::new(0),
            sequence_micros: AtomicU64::new(0),
        }
    }

    pub(super) fn state(&self) -> EngineState {
        let state = self.state.load(Ordering::Acquire);
        [EngineState::Dead, EngineState::Draining]
            .into_iter()
            .find(|known| *known as u8 == state)
            .unwrap_or(EngineState::Running)
    }

    /// Moves on to a state; there is no way back.
    pub(super) fn enter(&self, state: EngineState) {
        self.state.fetch_max(state as u8, Ordering::AcqRel);
    }

    /// Takes `num` places in the queue, or none where not all are free.
    pub(super) fn take_places(self: &Arc<Self>, num: usize) -> Option<Vec<QueuePlace>> {
        let num_free = |taken: usize| self.num_queued_max.saturating_sub(taken);
        let update = |taken| (num <= num_free(taken)).then(|| taken + num);
        self.num_queued.fetch_update(Ordering::AcqRel, Ordering::Acquire, update).ok()?;
        Some((0..num).map(|_| QueuePlace { stats: Arc::clone(self) }).collect())
    }

    pub(super) fn num_queued(&self) -> usize {
        self.num_queued.load(Ordering::Acquire)
    }

    /// Estimates when those that wait now will have begun, at the rate of the last sequences; between 1 s and 60 s.
    pub(super) fn retry_after(&self) -> Duration {
        let micros = self.sequence_micros.load(Ordering::Relaxed) * self.num_queued() as u64;
        Duration::from_micros(micros).clamp(Duration::from_secs(1), Duration::from_mins(1))
    }

    pub(super) fn record_rate(&self, rate: &FinishRate) {
        self.sequence_micros.store(rate.mean.as_micros() as u64, Ordering::Relaxed);
    }

    /// Records a step that was planned.
    pub(super) fn record_step(&self, output: &SchedulerOutput) {
        self.num_steps.fetch_add(1, Ordering::Relaxed);
        self.num_preemptions.fetch_add(output.num_preempted as u64, Ordering::Relaxed);
    }

    pub(super) fn record_prompt(&self, num_tokens: usize, num_cache_hit_tokens: usize) {
        self.num_prompt_tokens.fetch_add(num_tokens as u64, Ordering::Relaxed);
        self.num_cache_hit_tokens.fetch_add(num_cache_hit_tokens as u64, Ordering::Relaxed);
    }

    pub(super) fn record_generated(&self, num_tokens: usize) {
        self.num_generated_tokens.fetch_add(num_tokens as u64, Ordering::Relaxed);
    }

    /// Shows where the scheduler's sequences and blocks are now.
    pub(super) fn show(&self, scheduler: &Scheduler) {
        self.num_waiting.store(scheduler.waiting().len(), Ordering::Relaxed);
        self.num_running.store(scheduler.running().len(), Ordering::Relaxed);
        self.num_blocks_used.store(scheduler.kv_cache().pool().num_used(), Ordering::Relaxed);
    }

    /// Shows nothing in work: the engine died.
    pub(super) fn clear(&self) {
        for gauge in [&self.num_waiting, &self.num_running, &self.num_blocks_used] {
            gauge.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn snapshot(&self) -> EngineStats {
        EngineStats {
            state: self.state(),
            num_queued: self.num_queued(),
            num_waiting: self.num_waiting.load(Ordering::Relaxed),
            num_running: self.num_running.load(Ordering::Relaxed),
            num_blocks_used: self.num_blocks_used.load(Ordering::Relaxed),
            num_blocks: self.num_blocks,
            num_steps: self.num_steps.load(Ordering::Relaxed),
            num_prompt_tokens: self.num_prompt_tokens.load(Ordering::Relaxed),
            num_cache_hit_tokens: self.num_cache_hit_tokens.load(Ordering::Relaxed),
            num_generated_tokens: self.num_generated_tokens.load(Ordering::Relaxed),
            num_preemptions: self.num_preemptions.load(Ordering::Relaxed),
        }
    }
}

/// A place in the queue, given back when dropped: by the sequence's beginning, its end, or the engine's.
#[derive(Debug)]
pub(super) struct QueuePlace {
    stats: Arc<SharedStats>,
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.stats.num_queued.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How fast sequences end, as a moving mean of the time between two ends while there is work.
#[derive(Debug, Default)]
pub(super) struct FinishRate {
    last: Option<Instant>,
    mean: Duration,
}

impl FinishRate {
    /// An end counts for an eighth, so about the last sixteen matter.
    const WEIGHT: f64 = 0.125;

    /// Starts the clock after idleness.
    pub(super) fn resume(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Counts sequences that ended in one step.
    pub(super) fn record(&mut self, now: Instant, num_finished: u32) {
        let Some(last) = self.last.replace(now) else { return };
        let interval = now.duration_since(last) / num_finished.max(1);
        self.mean = if self.mean.is_zero() {
            interval
        } else {
            self.mean.mul_f64(1.0 - Self::WEIGHT) + interval.mul_f64(Self::WEIGHT)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_all_or_none_and_given_back_when_dropped() {
        let stats = Arc::new(SharedStats::new(3, 1));
        let two = stats.take_places(2);
        assert!(two.is_some());
        assert!(stats.take_places(2).is_none());
        assert_eq!(stats.num_queued(), 2);
        drop(two);
        assert_eq!(stats.num_queued(), 0);
        assert!(stats.take_places(usize::MAX).is_none());
    }

    #[test]
    fn a_dead_engine_does_not_drain() {
        let stats = SharedStats::new(1, 1);
        for (enter, state) in [
            (EngineState::Running, EngineState::Running),
            (EngineState::Draining, EngineState::Draining),
            (EngineState::Running, EngineState::Draining),
            (EngineState::Dead, EngineState::Dead),
            (EngineState::Draining, EngineState::Dead),
        ] {
            stats.enter(enter);
            assert_eq!(stats.state(), state);
        }
    }

    #[test]
    fn the_wait_follows_the_rate_and_the_queue_within_its_bounds() {
        let start = Instant::now();
        let seconds = Duration::from_secs;
        // (seconds between two ends, sequences queued, seconds to wait)
        for (interval, num_queued, expected) in [(2, 5, 10), (2, 0, 1), (30, 8, 60)] {
            let stats = Arc::new(SharedStats::new(8, 1));
            let mut rate = FinishRate::default();
            rate.resume(start);
            rate.record(start + seconds(interval), 1);
            rate.record(start + seconds(3 * interval), 2);
            stats.record_rate(&rate);
            let places = stats.take_places(num_queued);
            assert_eq!(stats.retry_after(), seconds(expected), "{interval} s, {num_queued} queued");
            drop(places);
        }
    }
}
