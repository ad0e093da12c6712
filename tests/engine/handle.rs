//! The engine on its thread: who leaves, who is refused, and how everything ends.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use futures_util::FutureExt as _;
use lacuna::completion::{FinishReason, SamplingParams};
use lacuna::engine::{
    Batch, Engine, EngineFailure, EngineHandle, EngineLimits, EngineState, Executor, ExecutorError,
    SampledToken, SequenceRequest, SequenceStream, SubmitError, start,
};

use crate::fake_device::{FakeDevice, VOCAB_SIZE, greedy, truth};

const LIMITS: EngineLimits = EngineLimits {
    num_seqs_max: 4,
    num_batched_tokens_max: 16,
    block_size: 4,
    num_blocks: 32,
    context_tokens_max: 64,
    num_queued_max: 3,
    has_prefix_cache: true,
    vocab_size: VOCAB_SIZE,
};
const LONG: Duration = Duration::from_mins(1);

/// A device that reports each step and does it when told to; on its own once nobody holds the other end.
struct SteppedDevice {
    device: FakeDevice,
    begun: Sender<usize>,
    permits: Receiver<()>,
}

impl Executor for SteppedDevice {
    fn start(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        // The test may have lost interest in either.
        let _ = self.begun.send(batch.num_tokens());
        let _ = self.permits.recv();
        self.device.start(batch)
    }

    fn finish(&mut self) -> Result<Vec<SampledToken>, ExecutorError> {
        self.device.finish()
    }
}

/// The test's end of a [`SteppedDevice`].
struct Stepper {
    begun: Receiver<usize>,
    permits: Sender<()>,
}

impl Stepper {
    /// Waits until a step has been planned, and returns its number of tokens.
    fn wait_for_step(&self) -> usize {
        self.begun.recv_timeout(LONG).unwrap()
    }

    /// Lets the step that waits be done, and waits for the next.
    fn next_step(&self) -> usize {
        self.permits.send(()).unwrap();
        self.wait_for_step()
    }

    /// Lets all steps be done.
    fn release(self) -> Receiver<usize> {
        self.begun
    }
}

fn start_with(executor: impl Executor + 'static, limits: EngineLimits) -> (Engine, EngineHandle) {
    start(Box::new(executor), limits).unwrap()
}

fn start_fake(limits: EngineLimits) -> (Engine, EngineHandle) {
    start_with(FakeDevice::new(limits.num_blocks, limits.block_size), limits)
}

fn start_stepped(limits: EngineLimits) -> (Engine, EngineHandle, Stepper) {
    let (begun_sender, begun) = channel();
    let (permits, permits_receiver) = channel();
    let device = FakeDevice::new(limits.num_blocks, limits.block_size);
    let device = SteppedDevice { device, begun: begun_sender, permits: permits_receiver };
    let (engine, handle) = start_with(device, limits);
    (engine, handle, Stepper { begun, permits })
}

async fn collect(
    stream: &mut SequenceStream,
) -> Result<(Vec<SampledToken>, FinishReason), EngineFailure> {
    let mut tokens = Vec::new();
    loop {
        // A stream must not end without a word.
        let output = stream.next().await.unwrap()?;
        tokens.extend(output.tokens);
        if let Some(reason) = output.finish {
            assert!(stream.next().await.is_none(), "spoke after its end");
            return Ok((tokens, reason));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_get_what_each_would_get_alone() {
    for runs_ahead in [false, true] {
        many_at_once(runs_ahead).await;
    }
}

async fn many_at_once(runs_ahead: bool) {
    let limits = EngineLimits { num_blocks: 10, num_queued_max: 64, ..LIMITS };
    let device = FakeDevice::new(limits.num_blocks, limits.block_size);
    let (engine, handle) = start_with(device.running_ahead(runs_ahead), limits);
    let tasks: Vec<_> = (0..64_u64)
        .map(|seed| {
            let length = 1 + seed as u32 % 20;
            let prompt = (0..length).map(|token| token % VOCAB_SIZE).collect();
            let mut request = greedy(prompt, 1 + seed as u32 % 15);
            request.sampling.temperature = [0.0, 0.8][seed as usize % 2];
            request.sampling.seed = Some(seed);
            let handle = handle.clone();
            tokio::spawn(async move {
                let mut stream = handle.submit(request.clone()).unwrap();
                assert_eq!(collect(&mut stream).await.unwrap(), truth(&request, seed));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let stats = handle.stats();
    assert_eq!((stats.num_queued, stats.num_waiting, stats.num_running), (0, 0, 0));
    assert_eq!(stats.num_blocks_used, 0);
    assert!(stats.num_cache_hit_tokens > 0 && stats.num_generated_tokens > 64);
    assert_eq!(stats.queue_wait_micros.buckets.iter().sum::<u64>(), 64, "each waits once");
    let batches = stats.batch_sizes;
    assert_eq!(batches.buckets.iter().sum::<u64>(), stats.num_steps);
    let most = stats.num_steps * handle.limits().num_seqs_max as u64;
    assert!(batches.sum > stats.num_steps && batches.sum <= most, "{batches:?}");
    engine.drain(LONG).await;
}

#[test]
fn a_prompt_that_breaks_a_limit_is_refused() {
    let limits = EngineLimits { num_blocks: 3, ..LIMITS };
    let (_engine, handle) = start_fake(limits);
    let rows = [
        (vec![], SubmitError::EmptyPrompt),
        (vec![0; 13], SubmitError::PromptTooLong { num_tokens: 13, limit: 12 }),
        (vec![1, VOCAB_SIZE], SubmitError::InvalidToken { id: VOCAB_SIZE, vocab_size: VOCAB_SIZE }),
    ];
    for (prompt, error) in rows {
        assert_eq!(handle.submit(greedy(prompt, 1)).unwrap_err(), error);
    }
    assert_eq!(handle.stats().num_queued, 0);
}

#[tokio::test]
async fn the_answer_is_cut_to_what_the_context_and_the_cache_allow() {
    // (tokens of the context, blocks, most tokens asked for, tokens given)
    let rows = [(64, 3, 99, 3), (13, 32, 99, 3), (12, 32, 99, 2), (12, 32, 1, 1), (12, 32, 0, 1)];
    for (context_tokens_max, num_blocks, max_tokens, num_expected) in rows {
        let limits = EngineLimits { context_tokens_max, num_blocks, ..LIMITS };
        let (_engine, handle) = start_fake(limits);
        let mut stream = handle.submit(greedy(vec![1; 10], max_tokens)).unwrap();
        let (tokens, reason) = collect(&mut stream).await.unwrap();
        assert_eq!((tokens.len(), reason), (num_expected, FinishReason::Length));
    }
}

#[tokio::test]
async fn the_queue_is_full_at_its_limit_exactly_and_takes_a_group_whole() {
    let limits = EngineLimits { num_seqs_max: 1, ..LIMITS };
    let (_engine, handle, stepper) = start_stepped(limits);
    let mut running = handle.submit(greedy(vec![1], 2)).unwrap();
    stepper.wait_for_step();
    // The first runs now and has left its place to others.
    let first = handle.submit(greedy(vec![2], 1)).unwrap();
    assert!(matches!(
        handle.submit_group(greedy(vec![3], 1), 3),
        Err(SubmitError::QueueFull { num_queued: 1, .. })
    ));
    let group = handle.submit_group(greedy(vec![3], 1), 2).unwrap();
    match handle.submit(greedy(vec![4], 1)).unwrap_err() {
        SubmitError::QueueFull { num_queued, retry_after } => {
            assert_eq!(num_queued, 3);
            assert!(retry_after >= Duration::from_secs(1));
        }
        other => panic!("{other}"),
    }
    stepper.release();
    collect(&mut running).await.unwrap();
    for mut stream in group.into_iter().chain([first]) {
        collect(&mut stream).await.unwrap();
    }
    assert_eq!(handle.stats().num_queued, 0);
}

#[tokio::test]
async fn dropping_a_queued_stream_frees_its_place_within_a_step() {
    let limits = EngineLimits { num_seqs_max: 1, ..LIMITS };
    let (_engine, handle, stepper) = start_stepped(limits);
    let _running = handle.submit(greedy(vec![1; 3], 9)).unwrap();
    stepper.wait_for_step();
    let queued = handle.submit(greedy(vec![2; 3], 9)).unwrap();
    stepper.next_step();
    assert_eq!((handle.stats().num_queued, handle.stats().num_waiting), (1, 1));
    drop(queued);
    stepper.next_step();
    assert_eq!((handle.stats().num_queued, handle.stats().num_waiting), (0, 0));
    stepper.release();
}

#[tokio::test]
async fn dropping_a_running_stream_frees_its_blocks_within_a_step() {
    let (_engine, handle, stepper) = start_stepped(LIMITS);
    let leaving = handle.submit(greedy(vec![1; 9], 20)).unwrap();
    stepper.wait_for_step();
    let request = greedy(vec![2; 3], 3);
    let mut staying = handle.submit(request.clone()).unwrap();
    stepper.next_step();
    assert_eq!((handle.stats().num_running, handle.stats().num_blocks_used), (2, 4));
    drop(leaving);
    assert_eq!(stepper.next_step(), 1);
    assert_eq!((handle.stats().num_running, handle.stats().num_blocks_used), (1, 1));
    stepper.release();
    assert_eq!(collect(&mut staying).await.unwrap(), truth(&request, 0));
    assert_eq!(handle.stats().num_blocks_used, 0);
}

#[tokio::test]
async fn a_stream_dropped_before_its_first_step_never_runs() {
    let (_engine, handle, stepper) = start_stepped(LIMITS);
    let _running = handle.submit(greedy(vec![1], 9)).unwrap();
    stepper.wait_for_step();
    drop(handle.submit(greedy(vec![2; 8], 9)).unwrap());
    assert_eq!(stepper.next_step(), 1);
    assert_eq!((handle.stats().num_queued, handle.stats().num_running), (0, 1));
    stepper.release();
}

#[tokio::test]
async fn a_group_computes_its_prompt_once() {
    let (_engine, handle, stepper) =
        start_stepped(EngineLimits { num_batched_tokens_max: 8, ..LIMITS });
    let mut request = greedy((0..22).collect(), 4);
    request.sampling =
        SamplingParams { temperature: 1.0, seed: Some(7), ..SamplingParams::greedy() };
    let mut streams = handle.submit_group(request.clone(), 3).unwrap();
    let begun = stepper.release();
    for (seed, stream) in (7..).zip(&mut streams) {
        assert_eq!(collect(stream).await.unwrap(), truth(&request, seed));
    }
    let stats = handle.stats();
    // Five full blocks of the prompt are shared by the two that come after the first.
    assert_eq!((stats.num_prompt_tokens, stats.num_cache_hit_tokens), (3 * 22, 2 * 20));
    let num_computed: usize = begun.try_iter().sum();
    assert_eq!(num_computed, 22 + 2 * 2 + 3 * 3);
}

#[tokio::test]
async fn an_equal_prompt_reports_the_tokens_it_found() {
    let (_engine, handle) = start_fake(LIMITS);
    for num_cached_tokens in [0, 8] {
        let mut stream = handle.submit(greedy((0..11).collect(), 2)).unwrap();
        while let Some(output) = stream.next().await {
            assert_eq!(output.unwrap().num_cached_tokens, num_cached_tokens);
        }
    }
}

#[tokio::test]
async fn without_a_seed_one_is_drawn() {
    let (_engine, handle) = start_fake(LIMITS);
    let mut request = greedy(vec![1], 40);
    request.sampling.temperature = 1.0;
    let mut streams = [handle.submit(request.clone()).unwrap(), handle.submit(request).unwrap()];
    let mut outputs = Vec::new();
    for stream in &mut streams {
        outputs.push(collect(stream).await.unwrap().0);
    }
    assert_ne!(outputs[0], outputs[1]);
}

#[tokio::test]
async fn draining_finishes_what_was_taken_and_takes_no_more() {
    let limits = EngineLimits { num_seqs_max: 1, ..LIMITS };
    let (engine, handle, stepper) = start_stepped(limits);
    let requests = [greedy(vec![1], 3), greedy(vec![2], 3)];
    let mut streams = requests.clone().map(|request| handle.submit(request).unwrap());
    stepper.wait_for_step();
    let drained = tokio::spawn(engine.drain(LONG));
    while handle.stats().state == EngineState::Running {
        tokio::task::yield_now().await;
    }
    assert_eq!(handle.submit(greedy(vec![3], 1)).unwrap_err(), SubmitError::Draining);
    stepper.release();
    drained.await.unwrap();
    for (request, stream) in requests.iter().zip(&mut streams) {
        assert_eq!(collect(stream).await.unwrap(), truth(request, 0));
    }
    assert_eq!(handle.submit(greedy(vec![3], 1)).unwrap_err(), SubmitError::Draining);
}

#[tokio::test]
async fn what_is_not_done_at_the_deadline_is_aborted() {
    let limits = EngineLimits { num_seqs_max: 1, ..LIMITS };
    let (engine, handle, stepper) = start_stepped(limits);
    let mut running = handle.submit(greedy(vec![1], 30)).unwrap();
    stepper.wait_for_step();
    let mut queued = handle.submit(greedy(vec![1], 30)).unwrap();
    let drained = tokio::spawn(engine.drain(Duration::ZERO));
    while handle.stats().state == EngineState::Running {
        tokio::task::yield_now().await;
    }
    stepper.release();
    drained.await.unwrap();
    let (tokens, reason) = collect(&mut running).await.unwrap();
    assert_eq!((tokens.len(), reason), (1, FinishReason::Aborted));
    let (tokens, reason) = collect(&mut queued).await.unwrap();
    assert_eq!((tokens.len(), reason), (0, FinishReason::Aborted));
    let stats = handle.stats();
    assert_eq!((stats.num_blocks_used, stats.num_queued), (0, 0));
}

#[tokio::test]
async fn dropping_the_engine_aborts_and_joins() {
    let (engine, handle) = start_fake(LIMITS);
    let mut stream = handle.submit(greedy(vec![1], 50)).unwrap();
    drop(engine);
    // It ended in one way or the other; nobody waits for ever.
    collect(&mut stream).await.unwrap();
    assert_eq!(handle.submit(greedy(vec![1], 1)).unwrap_err(), SubmitError::Draining);
}

/// A device that fails at a step, one way or another.
struct FailingDevice {
    device: FakeDevice,
    num_steps_left: u32,
    fail: fn() -> Result<Vec<SampledToken>, ExecutorError>,
}

impl Executor for FailingDevice {
    fn start(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        self.device.start(batch)
    }

    fn finish(&mut self) -> Result<Vec<SampledToken>, ExecutorError> {
        if self.num_steps_left == 0 {
            return (self.fail)();
        }
        self.num_steps_left -= 1;
        self.device.finish()
    }

    fn runs_ahead(&self) -> bool {
        self.device.runs_ahead()
    }
}

#[tokio::test]
async fn a_failed_device_fails_every_sequence_and_takes_no_more() {
    type Row = (fn() -> Result<Vec<SampledToken>, ExecutorError>, fn(&EngineFailure) -> bool);
    let rows: [Row; 3] = [
        (
            || Err(ExecutorError::device("out of memory")),
            |failure| matches!(failure, EngineFailure::Device(_)),
        ),
        (
            || Ok(Vec::new()),
            |failure| {
                let EngineFailure::Device(error) = failure else { return false };
                matches!(**error, ExecutorError::TokenCount { num_tokens: 0, .. })
            },
        ),
        (|| panic!("on purpose"), |failure| matches!(failure, EngineFailure::Panicked)),
    ];
    let rows = rows.into_iter().flat_map(|row| [(row, false), (row, true)]);
    for ((fail, is_expected), runs_ahead) in rows {
        let limits = EngineLimits { num_seqs_max: 2, ..LIMITS };
        let device = FakeDevice::new(limits.num_blocks, limits.block_size);
        let device = device.running_ahead(runs_ahead);
        let device = FailingDevice { device, num_steps_left: 2, fail };
        let (engine, handle) = start_with(device, limits);
        let ended = handle.ended();
        let mut streams = handle.submit_group(greedy(vec![1], 30), 3).unwrap();
        for stream in &mut streams {
            let failure = collect(stream).await.unwrap_err();
            assert!(is_expected(&failure), "{failure:?}");
            assert!(stream.next().await.is_none());
        }
        assert_eq!(handle.submit(greedy(vec![1], 1)).unwrap_err(), SubmitError::Dead);
        let stats = handle.stats();
        assert_eq!((stats.state, stats.num_queued), (EngineState::Dead, 0));
        assert_eq!(ended.await, EngineState::Dead);
        engine.drain(LONG).await;
        assert_eq!(handle.ended().await, EngineState::Dead);
    }
}

#[tokio::test]
async fn who_waits_for_the_end_hears_of_a_drain_and_of_nothing_before() {
    let (engine, handle) = start_fake(LIMITS);
    let (first, second) = (handle.ended(), handle.ended());
    let mut first = std::pin::pin!(first);
    assert!(first.as_mut().now_or_never().is_none());
    engine.drain(LONG).await;
    assert_eq!((first.await, second.await), (EngineState::Draining, EngineState::Draining));
}

#[tokio::test]
async fn ahead_of_its_tokens_the_engine_says_what_it_would_say_behind_them() {
    let device = FakeDevice::new(LIMITS.num_blocks, LIMITS.block_size);
    let (engine, handle) = start_with(device.running_ahead(true), LIMITS);
    let penalised = SamplingParams { presence_penalty: 1.0, ..SamplingParams::greedy() };
    let requests = [
        greedy(vec![1, 2, 3], 20),
        SequenceRequest { stop_token_ids: (0..12).collect(), ..greedy(vec![5; 9], 20) },
        SequenceRequest { logprobs: Some(1), ..greedy(vec![8, 2], 9) },
        SequenceRequest { sampling: penalised, ..greedy(vec![9, 7], 15) },
        greedy(vec![4], 1),
    ];
    for request in requests {
        let mut stream = handle.submit(request.clone()).unwrap();
        assert_eq!(collect(&mut stream).await.unwrap(), truth(&request, 0));
    }
    drop(engine);
    assert_eq!(handle.stats().num_blocks_used, 0);
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    for runs_ahead in [false, true] {
        come_and_go(runs_ahead);
    }
}

fn come_and_go(runs_ahead: bool) {
    let limits = EngineLimits { num_blocks: 12, ..LIMITS };
    let device = FakeDevice::new(limits.num_blocks, limits.block_size);
    let (engine, handle) = start_with(device.running_ahead(runs_ahead), limits);
    let clients: Vec<_> = (0..4_u32)
        .map(|client| {
            let handle = handle.clone();
            std::thread::spawn(move || {
                for round in 0..200 {
                    let prompt = vec![(client + round) % VOCAB_SIZE; 1 + round as usize % 9];
                    // Dropped at once, whether it was taken or refused.
                    drop(handle.submit(SequenceRequest { priority: -1, ..greedy(prompt, 20) }));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    drop(engine);
    let stats = handle.stats();
    assert_eq!((stats.num_queued, stats.num_waiting, stats.num_running), (0, 0, 0));
    assert_eq!(stats.num_blocks_used, 0);
}
