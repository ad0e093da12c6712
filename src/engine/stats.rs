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

use crate::engine::histogram::{BATCH_SIZES, Histogram, HistogramCounts, QUEUE_WAIT_MICROS};
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
    /// From a submission to the start of its sequence's first step, by [`QUEUE_WAIT_MICROS`].
    pub queue_wait_micros: HistogramCounts,
    /// Sequences of the steps, by [`BATCH_SIZES`].
    pub batch_sizes: HistogramCounts,
}

/// The shared side of [`EngineStats`].
#[derive(Debug)]
pub(super) struct SharedStats {
    state: AtomicU8,
    num_queued_max: usize,
    num_queued: AtomicUsize,
    /// Tokens of the prompts of those.
    num_queued_tokens: AtomicUsize,
    num_waiting: AtomicUsize,
    num_running: AtomicUsize,
    num_blocks_used: AtomicUsize,
    num_blocks: usize,
    num_steps: AtomicU64,
    num_prompt_tokens: AtomicU64,
    num_cache_hit_tokens: AtomicU64,
    num_generated_tokens: AtomicU64,
    num_preemptions: AtomicU64,
    queue_wait: Histogram,
    batch_sizes: Histogram,
    /// Mean time between two sequences' ends while there is work; 0 where none has ended.
    sequence_micros: AtomicU64,
    /// Mean tokens a second of steps that compute prompts; 0 where there was none.
    prompt_tokens_per_second: AtomicU64,
}

impl SharedStats {
    pub(super) fn new(num_queued_max: usize, num_blocks: usize) -> Self {
        Self {
            state: AtomicU8::new(EngineState::Running as u8),
            num_queued_max,
            num_queued: AtomicUsize::new(0),
            num_queued_tokens: AtomicUsize::new(0),
            num_waiting: AtomicUsize::new(0),
            num_running: AtomicUsize::new(0),
            num_blocks_used: AtomicUsize::new(0),
            num_blocks,
            num_steps: AtomicU64::new(0),
            num_prompt_tokens: AtomicU64::new(0),
            num_cache_hit_tokens: AtomicU64::new(0),
            num_generated_tokens: AtomicU64::new(0),
            num_preemptions: AtomicU64::new(0),
            queue_wait: Histogram::new(&QUEUE_WAIT_MICROS),
            batch_sizes: Histogram::new(&BATCH_SIZES),
            sequence_micros: AtomicU64::new(0),
            prompt_tokens_per_second: AtomicU64::new(0),
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

    /// Takes `num` places in the queue, or none where not all are free, for prompts of so many tokens together.
    pub(super) fn take_places(
        self: &Arc<Self>,
        num: usize,
        num_tokens: usize,
    ) -> Option<Vec<QueuePlace>> {
        let num_free = |taken: usize| self.num_queued_max.saturating_sub(taken);
        let update = |taken| (num <= num_free(taken)).then(|| taken + num);
        self.num_queued.fetch_update(Ordering::AcqRel, Ordering::Acquire, update).ok()?;
        self.num_queued_tokens.fetch_add(num_tokens, Ordering::AcqRel);
        // One computes the prompt of all of them.
        let tokens = |index| if index == 0 { num_tokens } else { 0 };
        let submitted = Instant::now();
        let place =
            |index| QueuePlace { stats: Arc::clone(self), num_tokens: tokens(index), submitted };
        Some((0..num).map(place).collect())
    }

    pub(super) fn num_queued(&self) -> usize {
        self.num_queued.load(Ordering::Acquire)
    }

    /// Estimates when those that wait now will have begun, at the rate of the last sequences; between 1 s and 60 s.
    pub(super) fn retry_after(&self) -> Duration {
        let micros = self.sequence_micros.load(Ordering::Relaxed) * self.num_queued() as u64;
        Duration::from_micros(micros).clamp(Duration::from_secs(1), Duration::from_mins(1))
    }

    /// Estimates when a prompt of so many tokens would have its first token: the later of two times. The prompts that
    /// wait and its own take as long as prompts took lately, less the share that the prefix cache had of prompts so far;
    /// and where others wait already, each of them needs the end of a sequence. `None` while nothing was computed that would tell.
    pub(super) fn expected_first_token(&self, num_tokens: usize) -> Option<Duration> {
        let rate = self.prompt_tokens_per_second.load(Ordering::Relaxed);
        if rate == 0 {
            return None;
        }
        let queued = self.num_queued_tokens.load(Ordering::Acquire);
        let prompts = self.num_prompt_tokens.load(Ordering::Relaxed).max(1);
        let hits = self.num_cache_hit_tokens.load(Ordering::Relaxed).min(prompts);
        let share = 1.0 - hits as f64 / prompts as f64;
        let seconds = (queued + num_tokens) as f64 * share / rate as f64;
        let computing = Duration::from_secs_f64(seconds);
        let num_queued = self.num_queued().max(self.num_waiting.load(Ordering::Relaxed)) as u64;
        let micros = self.sequence_micros.load(Ordering::Relaxed).saturating_mul(num_queued);
        Some(computing.max(Duration::from_micros(micros)))
    }

    /// Shows how fast prompts are computed.
    pub(super) fn record_prompt_rate(&self, rate: &PromptRate) {
        self.prompt_tokens_per_second.store(rate.tokens_per_second(), Ordering::Relaxed);
    }

    pub(super) fn record_rate(&self, rate: &FinishRate) {
        self.sequence_micros.store(rate.mean.as_micros() as u64, Ordering::Relaxed);
    }

    /// Records a step that was planned.
    pub(super) fn record_step(&self, output: &SchedulerOutput) {
        self.num_steps.fetch_add(1, Ordering::Relaxed);
        self.batch_sizes.record(output.num_scheduled_tokens.len() as u64);
        self.num_preemptions.fetch_add(output.num_preempted as u64, Ordering::Relaxed);
    }

    /// Records that what waited at this place begins.
    pub(super) fn record_wait(&self, place: &QueuePlace) {
        self.queue_wait.record(place.submitted.elapsed().as_micros() as u64);
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
            queue_wait_micros: self.queue_wait.snapshot(),
            batch_sizes: self.batch_sizes.snapshot(),
        }
    }
}

/// A place in the queue, given back when dropped: by the sequence's beginning, its end, or the engine's.
#[derive(Debug)]
pub(super) struct QueuePlace {
    stats: Arc<SharedStats>,
    num_tokens: usize,
    submitted: Instant,
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.stats.num_queued.fetch_sub(1, Ordering::AcqRel);
        self.stats.num_queued_tokens.fetch_sub(self.num_tokens, Ordering::AcqRel);
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

/// How fast prompts are computed: tokens and time of the steps that hold some, each a moving mean.
#[derive(Debug, Default)]
pub(super) struct PromptRate {
    num_tokens: f64,
    seconds: f64,
}

impl PromptRate {
    /// A step counts for an eighth, as an end does in [`FinishRate`].
    const WEIGHT: f64 = FinishRate::WEIGHT;

    /// Counts a step that computed prompts; its decoded tokens are part of the work and count too.
    pub(super) fn record(&mut self, num_tokens: usize, time: Duration) {
        let keep = if self.seconds > 0.0 { 1.0 - Self::WEIGHT } else { 0.0 };
        self.num_tokens = self.num_tokens * keep + num_tokens as f64 * (1.0 - keep);
        self.seconds = self.seconds * keep + time.as_secs_f64() * (1.0 - keep);
    }

    fn tokens_per_second(&self) -> u64 {
        if self.seconds > 0.0 { (self.num_tokens / self.seconds).max(1.0) as u64 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_all_or_none_and_given_back_when_dropped() {
        let stats = Arc::new(SharedStats::new(3, 1));
        let two = stats.take_places(2, 8);
        assert!(two.is_some());
        assert!(stats.take_places(2, 8).is_none());
        assert_eq!(stats.num_queued(), 2);
        drop(two);
        assert_eq!(stats.num_queued(), 0);
        assert!(stats.take_places(usize::MAX, 8).is_none());
    }

    #[test]
    fn a_wait_counts_from_the_submission() {
        let stats = Arc::new(SharedStats::new(2, 1));
        let mut places = stats.take_places(2, 8).unwrap();
        for (place, millis) in places.iter_mut().zip([300, 2_000]) {
            place.submitted = Instant::now().checked_sub(Duration::from_millis(millis)).unwrap();
            stats.record_wait(place);
        }
        let counts = stats.snapshot().queue_wait_micros;
        let within = |micros: u64| {
            let bucket = QUEUE_WAIT_MICROS.iter().position(|border| *border == micros).unwrap();
            counts.buckets[bucket]
        };
        assert_eq!([within(500_000), within(1_000_000), within(2_500_000)], [1, 0, 1]);
        assert!(counts.sum >= 2_300_000, "{counts:?}");
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
            let places = stats.take_places(num_queued, 8);
            assert_eq!(stats.retry_after(), seconds(expected), "{interval} s, {num_queued} queued");
            drop(places);
        }
    }

    #[test]
    fn the_first_token_is_expected_after_the_prompts_that_wait() {
        let stats = Arc::new(SharedStats::new(8, 1));
        assert_eq!(stats.expected_first_token(100), None);
        let mut rate = PromptRate::default();
        rate.record(1000, Duration::from_secs(1));
        stats.record_prompt_rate(&rate);
        let millis = Duration::from_millis;
        assert_eq!(stats.expected_first_token(100), Some(millis(100)));
        // Three choices of one prompt are computed once.
        let places = stats.take_places(3, 400);
        assert_eq!(stats.expected_first_token(100), Some(millis(500)));
        // Of what was asked so far a half was cached.
        stats.record_prompt(1000, 500);
        assert_eq!(stats.expected_first_token(100), Some(millis(250)));
        let start = Instant::now();
        let mut ends = FinishRate::default();
        ends.resume(start);
        ends.record(start + millis(300), 1);
        stats.record_rate(&ends);
        assert_eq!(stats.expected_first_token(100), Some(millis(900)));
        drop(places);
        assert_eq!(stats.expected_first_token(100), Some(millis(50)));
    }

    #[test]
    fn the_rate_of_prompts_follows_what_is_new() {
        let mut rate = PromptRate::default();
        assert_eq!(rate.tokens_per_second(), 0);
        rate.record(500, Duration::from_millis(500));
        assert_eq!(rate.tokens_per_second(), 1000);
        (0..50).for_each(|_| rate.record(500, Duration::from_secs(1)));
        assert!((500..510).contains(&rate.tokens_per_second()), "{}", rate.tokens_per_second());
    }
}
