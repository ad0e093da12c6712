//! Sequences, step by step: each step is started while the one before is computed, where it can be.
//!
//! The host plans, packs and tells clients while the device computes. Nothing of that depends on a token, only what the
//! device embeds next does, and the device has that already.

use crate::engine::batch::Batch;
use crate::engine::executor::{Executor, ExecutorError};
use crate::engine::scheduler::{Scheduler, SchedulerOutput, StartedStep};
use crate::engine::sequence::SequenceUpdate;

/// The sequences of a scheduler on their way through a device.
#[derive(Debug)]
pub struct Pipeline {
    scheduler: Scheduler,
    batch: Batch,
    /// The step that was started while the one before was computed.
    ahead: Option<Started>,
}

#[derive(Debug)]
struct Started {
    step: StartedStep,
    can_be_followed: bool,
}

impl Pipeline {
    /// Takes the sequences; no step is under way.
    pub fn new(scheduler: Scheduler) -> Self {
        Self { scheduler, batch: Batch::default(), ahead: None }
    }

    /// Returns the sequences.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Returns the sequences, to add some or to end them.
    pub fn scheduler_mut(&mut self) -> &mut Scheduler {
        &mut self.scheduler
    }

    /// Returns whether there is nothing to do, and nothing under way.
    pub fn is_empty(&self) -> bool {
        self.scheduler.is_empty() && self.ahead.is_none()
    }

    /// Finishes a step and returns what it did to whom; starts the next one before it waits, where the device can.
    /// `planned` sees each step before it is started. All steps must be on one executor, which nobody else uses.
    ///
    /// # Errors
    /// The executor's, or [`ExecutorError::TokenCount`].
    pub fn step(
        &mut self,
        executor: &mut dyn Executor,
        planned: &mut dyn FnMut(&Scheduler, &SchedulerOutput),
    ) -> Result<Vec<SequenceUpdate>, ExecutorError> {
        let started = match self.ahead.take() {
            Some(started) => Some(started),
            None => self.start(executor, planned)?,
        };
        let Some(Started { step, can_be_followed }) = started else { return Ok(Vec::new()) };
        if can_be_followed && executor.runs_ahead() {
            self.ahead = self.start(executor, planned)?;
        }
        let tokens = executor.finish()?;
        if tokens.len() != step.num_rows() {
            let (num_rows, num_tokens) = (step.num_rows(), tokens.len());
            return Err(ExecutorError::TokenCount { num_rows, num_tokens });
        }
        Ok(self.scheduler.finish(&step, tokens)) // pure: finished, blocks freed
    }

    /// Starts a step; `None` where nobody has anything to compute.
    fn start(
        &mut self,
        executor: &mut dyn Executor,
        planned: &mut dyn FnMut(&Scheduler, &SchedulerOutput),
    ) -> Result<Option<Started>, ExecutorError> {
        let output = self.scheduler.schedule(); // pure: who computes how many tokens
        if output.num_scheduled_tokens.is_empty() {
            return Ok(None);
        }
        planned(&self.scheduler, &output);
        self.batch.fill(&output, &self.scheduler); // pure: flat host arrays
        executor.start(&self.batch)?; // with `finish`, the only line that touches the device
        let step = self.scheduler.start(&output); // pure: counters
        Ok(Some(Started { step, can_be_followed: self.batch.can_be_followed() }))
    }
}
