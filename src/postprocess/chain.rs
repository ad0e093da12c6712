//! The steps of a completion one after the other.

use std::{sync::Arc, time::Duration};

use crate::{
    completion::Step,
    postprocess::{
        Ending, Flow, Gap, PostProcessor,
        steps::{self, Whole, Work},
    },
};

/// Steps, in the order in which they run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain(Vec<Step>);

/// What a step did to a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The step.
    pub step: Step,
    /// Whether it changed something.
    pub is_change: bool,
    /// Whether it said that all that follows would be deleted.
    pub is_end: bool,
    /// How long it worked.
    pub took: Duration,
}

/// A chain at work on one completion.
pub struct Running {
    stages: Vec<Stage>,
    /// Tells the time since some moment: only the caller has a clock.
    clock: fn() -> Duration,
}

struct Stage {
    processor: Box<dyn PostProcessor>,
    effect: Effect,
    num_bytes_taken: usize,
    num_bytes_kept: usize,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.stages.iter().map(|stage| stage.effect)).finish()
    }
}

impl Chain {
    /// Makes a chain of steps.
    pub fn new(steps: &[Step]) -> Self {
        Self(steps.to_vec())
    }

    /// Returns the chain without some steps.
    #[must_use]
    pub fn without(&self, steps: &[Step]) -> Self {
        Self(self.0.iter().copied().filter(|step| !steps.contains(step)).collect())
    }

    /// Returns whether there are no steps.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a step asks for a score.
    pub fn has_score(&self) -> bool {
        self.0.contains(&Step::MinScore)
    }

    /// Returns the steps that work on an answer that is handed on piece by piece.
    #[must_use]
    pub fn streaming(&self) -> Self {
        let streams = |step: &Step| matches!(steps::work(*step), Work::Streams(_));
        Self(self.0.iter().copied().filter(streams).collect())
    }

    /// Begins with a completion.
    pub fn begin(&self, gap: Gap, clock: fn() -> Duration) -> Running {
        let gap = Arc::new(gap);
        let stage = |step: &Step| Stage {
            processor: match steps::work(*step) {
                Work::Streams(begin) => begin(Arc::clone(&gap)),
                Work::Whole(apply) => Whole::begin(Arc::clone(&gap), apply),
            },
            effect: Effect { step: *step, is_change: false, is_end: false, took: Duration::ZERO },
            num_bytes_taken: 0,
            num_bytes_kept: 0,
        };
        Running { stages: self.0.iter().map(stage).collect(), clock }
    }
}

impl Running {
    /// Takes more of the completion; returns what stays of it, and whether more can matter.
    pub fn push(&mut self, text: &str) -> (String, Flow) {
        let mut text = text.to_owned();
        for stage in &mut self.stages {
            text = stage.push(&text, self.clock);
        }
        let has_ended = self.stages.iter().any(|stage| stage.effect.is_end);
        (text, if has_ended { Flow::Ended } else { Flow::Open })
    }

    /// Takes the end of the completion; returns what stays of what was kept back.
    pub fn finish(&mut self, mut ending: Ending) -> String {
        let mut text = String::new();
        for stage in &mut self.stages {
            text = stage.push(&text, self.clock);
            ending.is_cut &= !stage.effect.is_end;
            text.push_str(&stage.finish(&mut ending, self.clock));
        }
        text
    }

    /// Returns what each step did, in the order in which they run; complete behind the end of the completion.
    pub fn effects(&self) -> impl Iterator<Item = Effect> {
        self.stages.iter().map(|stage| stage.effect)
    }
}

impl Stage {
    fn push(&mut self, text: &str, clock: fn() -> Duration) -> String {
        let mut kept = String::new();
        self.num_bytes_taken += text.len();
        if !self.effect.is_end && !text.is_empty() {
            let began = clock();
            self.effect.is_end = self.processor.push(text, &mut kept) == Flow::Ended;
            self.effect.took += clock().saturating_sub(began);
        }
        self.num_bytes_kept += kept.len();
        kept
    }

    fn finish(&mut self, ending: &mut Ending, clock: fn() -> Duration) -> String {
        let mut kept = String::new();
        let began = clock();
        self.processor.finish(ending, &mut kept);
        self.effect.took += clock().saturating_sub(began);
        self.num_bytes_kept += kept.len();
        // A step deletes or adds, never both.
        self.effect.is_change = self.num_bytes_kept != self.num_bytes_taken;
        kept
    }
}
