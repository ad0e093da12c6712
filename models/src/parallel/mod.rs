//! One model on several devices: each rank has a shard of every layer, a cache of its heads, and a thread.
//!
//! All ranks compute the same step at the same time and meet in a sum of embeddings and in two a layer, after which each
//! has the same residual stream to the bit; nothing else travels. Rank 0 runs on the caller's thread and answers. A rank
//! that chooses tokens does so by itself, from logits that may differ from another's in their last bits; it is rank 0's
//! token that counts, for the others bring zeros to the sum of embeddings.

mod shard;
mod step;

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
};

use kernels::{
    backend::BackendError,
    group::{Group, Member},
    metadata::{SampleRow, StepInput},
};

pub(crate) use self::shard::Shard;

use self::step::{Command, OwnedStep, Sampling};
use crate::{LanguageModel, config::DecoderSpec, error::ModelError};

/// Returns what each of so many ranks computes: the spec that its memory is counted by.
///
/// # Errors
/// [`ModelError::Option`] where the model cannot be cut so; it says how it can.
pub fn rank_spec(spec: &DecoderSpec, num_ranks: usize) -> Result<DecoderSpec, ModelError> {
    Shard { rank: 0, num_ranks }.spec(spec)
}

/// A model whose layers are sharded.
struct ParallelModel {
    /// Ends before the first rank does, so that no thread is left waiting for it.
    others: Others,
    first: Box<dyn LanguageModel>,
    /// The whole model's, with the context in force.
    spec: DecoderSpec,
    name: String,
}

/// The ranks behind the first.
struct Others {
    group: Group,
    /// Whether ranks may be waiting for each other.
    is_in_step: bool,
    threads: Vec<RankThread>,
}

struct RankThread {
    /// Closing it ends the thread.
    steps: Option<Sender<Arc<Command>>>,
    answers: Receiver<Result<(), ModelError>>,
    thread: Option<JoinHandle<()>>,
}

/// Loads the ranks side by side, the first on the caller's thread, and makes one model of them.
///
/// # Errors
/// The first that a rank failed with of itself.
pub(crate) fn load(
    spec: &DecoderSpec,
    num_ranks: usize,
    load_first: impl FnOnce(Member) -> Result<Box<dyn LanguageModel>, ModelError>,
    load_other: impl Fn(Member) -> Result<Box<dyn LanguageModel>, ModelError> + Sync,
) -> Result<Box<dyn LanguageModel>, ModelError> {
    let (group, members) = Group::new(num_ranks);
    let mut members = members.into_iter();
    let first = members.next();
    let (first, others) = thread::scope(|scope| {
        let load_other = &load_other;
        let threads = members.map(|member| (member.rank(), scope.spawn(|| load_other(member))));
        let threads: Vec<_> = threads.collect();
        let first = match first {
            Some(member) => load_first(member),
            None => Err(failed(0)),
        };
        let others = threads.into_iter().map(|(rank, thread)| {
            // What a panic said stands in the log.
            thread.join().unwrap_or_else(|_| Err(failed(rank)))
        });
        (first, others.collect::<Vec<_>>())
    });
    let mut models = Vec::with_capacity(num_ranks);
    let mut error = None;
    for loaded in [first].into_iter().chain(others) {
        match loaded {
            Ok(model) => models.push(model),
            Err(found) => error = Some(cause(error, found)),
        }
    }
    if let Some(error) = error {
        return Err(error);
    }
    let names: Vec<String> = models.iter().map(|model| model.backend_name()).collect();
    let mut models = models.into_iter();
    let Some(first) = models.next() else { return Err(failed(0)) };
    let max_position_embeddings = first.spec().max_position_embeddings;
    let spec = DecoderSpec { max_position_embeddings, ..spec.clone() };
    let others = Others::start(&group, models)?;
    Ok(Box::new(ParallelModel { others, first, spec, name: names.join(" + ") }))
}

impl LanguageModel for ParallelModel {
    fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    fn backend_name(&self) -> String {
        self.name.clone()
    }

    fn num_blocks(&self) -> usize {
        self.first.num_blocks()
    }

    fn block_size(&self) -> usize {
        self.first.block_size()
    }

    fn num_adapters(&self) -> usize {
        self.first.num_adapters()
    }

    fn forward(&mut self, input: &StepInput<'_>) -> Result<&mut [f32], ModelError> {
        self.others.begin(Command::Forward(OwnedStep::new(input)))?;
        self.others.end(self.first.forward(input))
    }

    fn has_sampler(&self) -> bool {
        self.first.has_sampler()
    }

    fn start_sample(
        &mut self,
        input: &StepInput<'_>,
        num_ids: usize,
        rows: &[SampleRow<'_>],
    ) -> Result<(), ModelError> {
        let sampling = Sampling::new(num_ids, rows);
        self.others.begin(Command::Start(OwnedStep::new(input), sampling))?;
        self.others.end(self.first.start_sample(input, num_ids, rows))
    }

    fn finish_sample(&mut self) -> Result<Vec<u32>, ModelError> {
        self.others.begin(Command::Finish)?;
        self.others.end(self.first.finish_sample())
    }
}

impl Others {
    fn start(
        group: &Group,
        models: impl Iterator<Item = Box<dyn LanguageModel>>,
    ) -> Result<Self, ModelError> {
        let mut others = Self { group: group.clone(), is_in_step: false, threads: Vec::new() };
        for (rank, model) in (1..).zip(models) {
            let (steps, to_do) = channel();
            let (done, answers) = channel();
            let group = group.clone();
            let thread = thread::Builder::new()
                .name(format!("rank-{rank}"))
                .spawn(move || serve(rank, model, &group, &to_do, &done))
                .map_err(|source| ModelError::RankThread { rank, source })?;
            let thread = RankThread { steps: Some(steps), answers, thread: Some(thread) };
            others.threads.push(thread);
        }
        Ok(others)
    }

    /// Has the same done by all.
    fn begin(&mut self, command: Command) -> Result<(), ModelError> {
        self.group.check()?;
        self.is_in_step = true;
        let command = Arc::new(command);
        for RankThread { steps, .. } in &self.threads {
            // A thread that is gone has failed the group, which `end` finds.
            let _ = steps.as_ref().map(|steps| steps.send(Arc::clone(&command)));
        }
        Ok(())
    }

    /// Waits for all ranks. The answer is that of the first, unless one failed.
    fn end<T>(&mut self, first: Result<T, ModelError>) -> Result<T, ModelError> {
        if first.is_err() {
            self.group.fail(0);
        }
        let (answer, mut error) = match first {
            Ok(answer) => (Some(answer), None),
            Err(error) => (None, Some(error)),
        };
        for (rank, thread) in (1..).zip(&self.threads) {
            let done = thread.answers.recv().unwrap_or_else(|_| Err(failed(rank)));
            if let Err(found) = done {
                error = Some(cause(error, found));
            }
        }
        self.is_in_step = false;
        match (answer, error) {
            (Some(answer), None) => Ok(answer),
            (_, error) => Err(error.unwrap_or_else(|| failed(0))),
        }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        if self.is_in_step {
            // The first rank panicked: this wakes who waits for it.
            self.group.fail(0);
        }
        self.group.end();
        for RankThread { steps, thread, .. } in &mut self.threads {
            drop(steps.take());
            // A panic was answered for when it happened.
            let _ = thread.take().map(JoinHandle::join);
        }
    }
}

/// Computes steps until there are no more.
fn serve(
    rank: usize,
    mut model: Box<dyn LanguageModel>,
    group: &Group,
    steps: &Receiver<Arc<Command>>,
    answers: &Sender<Result<(), ModelError>>,
) {
    while let Ok(command) = steps.recv() {
        let done = command.run(&mut *model);
        if done.is_err() {
            group.fail(rank);
        }
        if answers.send(done).is_err() {
            return;
        }
    }
}

fn failed(rank: usize) -> ModelError {
    BackendError::RankFailed { rank }.into()
}

/// Returns the error that says most: one of a rank's own before that it waited for another.
fn cause(before: Option<ModelError>, found: ModelError) -> ModelError {
    match before {
        Some(before) if !matches!(before, ModelError::Backend(BackendError::RankFailed { .. })) => {
            before
        }
        Some(before) if matches!(found, ModelError::Backend(BackendError::RankFailed { .. })) => {
            before
        }
        _ => found,
    }
}

#[cfg(test)]
mod tests;
