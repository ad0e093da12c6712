//! The thread that owns the device: takes commands, runs steps, tells each sequence what became of it.
//!
//! Commands come in over one bounded channel; outputs leave over one channel a sequence. A closed output channel means
//! that the client went away, and is looked for before each step. With nothing to do the thread waits for a command.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::AtomicU64,
        mpsc::{self, Receiver, SyncSender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc::UnboundedSender, watch};

use crate::engine::EngineLimits;
use crate::engine::executor::{Executor, ExecutorError};
use crate::engine::handle::{EngineFailure, EngineHandle, SequenceOutput};
use crate::engine::pipeline::Pipeline;
use crate::engine::scheduler::{Scheduler, SchedulerOutput};
use crate::engine::sequence::{Sequence, SequenceId, SequenceUpdate};
use crate::engine::stats::{EngineState, FinishRate, PromptRate, QueuePlace, SharedStats};

/// Starts the engine's thread.
///
/// # Errors
/// The system has no thread left.
///
/// # Panics
/// Where the limits break a rule of [`EngineLimits::assert_valid`].
pub fn start(
    executor: Box<dyn Executor>,
    limits: EngineLimits,
) -> std::io::Result<(Engine, EngineHandle)> {
    let scheduler = Scheduler::new(&limits);
    // Each submission in the channel holds a place in the queue, the owner gives at most two commands.
    let (sender, commands) = mpsc::sync_channel(limits.num_queued_max + 2);
    let stats = Arc::new(SharedStats::new(limits.num_queued_max, limits.num_blocks));
    let engine_loop = EngineLoop {
        commands,
        pipeline: Pipeline::new(scheduler),
        executor,
        clients: BTreeMap::new(),
        deadline: None,
        rate: FinishRate::default(),
        prompt_rate: PromptRate::default(),
        stats: Arc::clone(&stats),
    };
    let (ended_sender, ended) = watch::channel(());
    let thread = thread::Builder::new().name("engine".to_owned()).spawn(move || {
        // Dropped after all else: whoever waits for it finds the device released.
        let _ended = ended_sender;
        engine_loop.run_to_end();
    })?;
    let next_id = Arc::new(AtomicU64::new(0));
    let handle = EngineHandle {
        commands: sender.clone(),
        stats: Arc::clone(&stats),
        limits,
        next_id,
        ended: ended.clone(),
    };
    Ok((Engine { commands: sender, stats, ended, thread: Some(thread) }, handle))
}

/// The owner of the engine's thread. Dropping it aborts what runs and waits for the end of the step in work.
#[derive(Debug)]
pub struct Engine {
    commands: SyncSender<Command>,
    stats: Arc<SharedStats>,
    ended: watch::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Takes no more sequences, finishes those that it has, and ends. What is not finished after `timeout` is aborted
    /// at the end of the step in work.
    pub async fn drain(mut self, timeout: Duration) {
        self.stop_taking(timeout);
        // Nothing is ever sent: the drop of the sender is the message.
        let _ = self.ended.changed().await;
    }

    fn stop_taking(&self, timeout: Duration) {
        self.stats.enter(EngineState::Draining);
        // A year is for ever, and can be added to any instant.
        let deadline = Instant::now() + timeout.min(Duration::from_hours(24 * 365));
        // Fails only where the thread has ended; the channel has room for the owner's commands.
        let _ = self.commands.send(Command::Drain { deadline });
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.stop_taking(Duration::ZERO);
        // A panic of the thread was reported to the sequences.
        let _ = thread.join();
    }
}

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Take these sequences, all submitted together.
    Submit(Vec<Submission>),
    /// End when there is nothing to do, at the latest at the deadline.
    Drain { deadline: Instant },
}

impl Command {
    /// Returns who waits for what was commanded.
    fn into_clients(self) -> impl Iterator<Item = Client> {
        let submissions = match self {
            Self::Submit(submissions) => submissions,
            Self::Drain { .. } => Vec::new(),
        };
        submissions.into_iter().map(|submission| submission.client)
    }
}

/// A sequence and who waits for it.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) sequence: Sequence,
    pub(super) client: Client,
}

/// Who waits for a sequence.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) outputs: UnboundedSender<Result<SequenceOutput, EngineFailure>>,
    /// Held until the sequence is first admitted.
    pub(super) place: Option<QueuePlace>,
}

impl Client {
    /// A client that went away is no error: its sequence is dropped before the next step.
    fn send(&self, output: Result<SequenceOutput, EngineFailure>) {
        let _ = self.outputs.send(output);
    }

    /// Says the last word. A place still held is given back first: who reads it may submit again.
    fn end(mut self, output: Result<SequenceOutput, EngineFailure>) {
        self.place = None;
        self.send(output);
    }
}

/// The state of the engine's thread.
struct EngineLoop {
    commands: Receiver<Command>,
    pipeline: Pipeline,
    executor: Box<dyn Executor>,
    clients: BTreeMap<SequenceId, Client>,
    /// Set once the engine is stopping.
    deadline: Option<Instant>,
    rate: FinishRate,
    prompt_rate: PromptRate,
    stats: Arc<SharedStats>,
}

impl EngineLoop {
    /// Runs until the owner wants an end or the device fails, and leaves no sequence without an answer.
    fn run_to_end(mut self) {
        // A panic leaves the scheduler in an unknown state; only the clients are looked at after it.
        let end = AssertUnwindSafe(|| self.run().map(|()| self.abort_all()));
        let failure = match catch_unwind(end) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => EngineFailure::Device(Arc::new(error)),
            Err(_) => EngineFailure::Panicked,
        };
        tracing::error!(error = &failure as &dyn std::error::Error, "engine failed");
        self.stats.enter(EngineState::Dead);
        self.stats.clear();
        let (commands, clients) = (self.commands, self.clients.into_values());
        for client in clients.chain(commands.try_iter().flat_map(Command::into_clients)) {
            client.end(Err(failure.clone()));
        }
    }

    fn run(&mut self) -> Result<(), ExecutorError> {
        while self.take_commands() {
            self.drop_abandoned();
            if !self.pipeline.is_empty() {
                self.step()?;
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), ExecutorError> {
        let Self { pipeline, executor, clients, stats, .. } = self;
        let began = Instant::now();
        let mut num_prompt_tokens = 0;
        let updates = pipeline.step(&mut **executor, &mut |scheduler, output| {
            // A sequence that decodes computes one token; more are a prompt's.
            if output.num_scheduled_tokens.iter().any(|num| *num > 1) {
                num_prompt_tokens += output.num_scheduled_tokens.iter().sum::<usize>();
            }
            account(scheduler, output, clients, stats);
        })?;
        if num_prompt_tokens > 0 {
            self.prompt_rate.record(num_prompt_tokens, began.elapsed());
            self.stats.record_prompt_rate(&self.prompt_rate);
        }
        self.emit(updates);
        Ok(())
    }

    /// Takes what was commanded, waiting for it where there is nothing to do; returns whether to go on.
    fn take_commands(&mut self) -> bool {
        if self.pipeline.is_empty() && self.deadline.is_none() {
            let Ok(command) = self.commands.recv() else { return false };
            self.rate.resume(Instant::now());
            self.take(command);
        }
        self.take_waiting_commands();
        self.deadline.is_none_or(|deadline| !self.pipeline.is_empty() && Instant::now() < deadline)
    }

    fn take_waiting_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.take(command);
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Submit(submissions) => {
                // All clients first: should a sequence panic, each of its group hears of it.
                let (sequences, clients): (Vec<_>, Vec<_>) =
                    submissions.into_iter().map(|it| (it.sequence, it.client)).unzip();
                self.clients.extend(sequences.iter().map(Sequence::id).zip(clients));
                for sequence in sequences {
                    self.pipeline.scheduler_mut().add(sequence);
                }
            }
            Command::Drain { deadline } => self.deadline = Some(deadline),
        }
    }

    /// Drops the sequences whose clients went away.
    fn drop_abandoned(&mut self) {
        let scheduler = self.pipeline.scheduler_mut();
        self.clients.retain(|id, client| {
            let is_abandoned = client.outputs.is_closed();
            if is_abandoned {
                scheduler.abort(*id);
            }
            !is_abandoned
        });
        self.stats.show(scheduler);
    }

    fn emit(&mut self, updates: Vec<SequenceUpdate>) {
        // Shown before it is told: who reads its last output finds its blocks freed.
        self.stats.show(self.pipeline.scheduler());
        let mut num_finished = 0;
        for update in updates {
            self.stats.record_generated(update.token.iter().len());
            num_finished += u32::from(update.finish.is_some());
            self.send(update);
        }
        if num_finished > 0 {
            self.rate.record(Instant::now(), num_finished);
            self.stats.record_rate(&self.rate);
        }
    }

    fn send(&mut self, update: SequenceUpdate) {
        let SequenceUpdate { id, token, num_cached_tokens, num_preemptions, finish } = update;
        let tokens = token.into_iter().collect();
        let output = SequenceOutput { tokens, num_cached_tokens, num_preemptions, finish };
        if finish.is_some() {
            if let Some(client) = self.clients.remove(&id) {
                client.end(Ok(output));
            }
        } else if let Some(client) = self.clients.get(&id) {
            client.send(Ok(output));
        }
    }

    /// Ends what is left when the engine stops.
    fn abort_all(&mut self) {
        self.take_waiting_commands();
        let ids: Vec<SequenceId> = self.clients.keys().copied().collect();
        let updates: Vec<SequenceUpdate> =
            ids.into_iter().filter_map(|id| self.pipeline.scheduler_mut().abort(id)).collect();
        self.emit(updates);
    }
}

/// Shows the step that is about to run, and gives back the places in the queue of those that begin.
fn account(
    scheduler: &Scheduler,
    output: &SchedulerOutput,
    clients: &mut BTreeMap<SequenceId, Client>,
    stats: &SharedStats,
) {
    let running = scheduler.running();
    for sequence in &running[running.len() - output.num_admitted..] {
        let client = clients.get_mut(&sequence.id());
        if let Some(place) = client.and_then(|client| client.place.take()) {
            stats.record_wait(&place);
            stats.record_prompt(sequence.num_prompt_tokens(), sequence.num_computed_tokens());
        }
    }
    stats.record_step(output);
    stats.show(scheduler);
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::engine::SequenceStream;
    use crate::engine::batch::Batch;
    use crate::engine::executor::SampledToken;

    /// A device that is never reached.
    struct Unreached;

    impl Executor for Unreached {
        fn start(&mut self, _batch: &Batch) -> Result<(), ExecutorError> {
            unreachable!("no sequence can be scheduled")
        }

        fn finish(&mut self) -> Result<Vec<SampledToken>, ExecutorError> {
            unreachable!("no step was started")
        }
    }

    #[test]
    fn after_a_panic_nobody_waits_for_what_the_scheduler_would_refuse() {
        let limits = EngineLimits {
            num_seqs_max: 2,
            num_batched_tokens_max: 4,
            block_size: 2,
            num_blocks: 2,
            context_tokens_max: 64,
            num_queued_max: 4,
            has_prefix_cache: true,
            vocab_size: 100,
        };
        let (sender, commands) = mpsc::sync_channel(4);
        let mut streams = Vec::new();
        // More tokens than there are slots, as no handle would submit; in one group, then in commands of their own.
        for ids in [vec![0, 1], vec![2], vec![3]] {
            let submissions = ids.into_iter().map(|id| {
                let (client, stream) = SequenceStream::with_client();
                streams.push(stream);
                Submission { sequence: Sequence::sample(id, vec![7; 9], 1), client }
            });
            sender.send(Command::Submit(submissions.collect())).unwrap();
        }
        let engine_loop = EngineLoop {
            commands,
            pipeline: Pipeline::new(Scheduler::new(&limits)),
            executor: Box::new(Unreached),
            clients: BTreeMap::new(),
            deadline: None,
            rate: FinishRate::default(),
            prompt_rate: PromptRate::default(),
            stats: Arc::new(SharedStats::new(4, 2)),
        };
        engine_loop.run_to_end();
        for (id, stream) in streams.iter_mut().enumerate() {
            let output = stream.next().now_or_never().unwrap();
            assert!(matches!(output, Some(Err(EngineFailure::Panicked))), "{id}: {output:?}");
        }
    }
}
