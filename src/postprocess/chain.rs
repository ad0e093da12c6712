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

/// Least bytes around and in a completion from which on its syntax is read where that may take a while. A grammar reads
/// so many in 100 to 150 µs; handing work to another thread and back takes 35 µs (both measured on two cores in use).
const PARKED_BYTES_MIN: usize = 512;

/// A chain at work on one completion.
pub struct Running {
    stages: Vec<Stage>,
    /// Tells the time since some moment: only the caller has a clock.
    clock: fn() -> Duration,
    /// Whether a grammar could read the text.
    has_grammar: bool,
    /// Bytes around and in the completion.
    num_bytes: usize,
}

/// What became of a piece.
#[derive(Debug)]
pub enum Taken {
    /// What stays of it, and whether more can matter.
    Done(String, Flow),
    /// A step would read much syntax: to be resumed where that may take a while.
    Parked(Parked),
}

/// A piece on its way, before a step that would read much syntax.
#[derive(Debug)]
pub struct Parked {
    stage_index: usize,
    text: String,
}

impl Default for Running {
    /// Returns what changes nothing.
    fn default() -> Self {
        Self { stages: Vec::new(), clock: || Duration::ZERO, has_grammar: false, num_bytes: 0 }
    }
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
        let has_grammar = gap.grammar().is_some();
        let num_bytes = gap.before.len() + gap.after.len();
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
        Running { stages: self.0.iter().map(stage).collect(), clock, has_grammar, num_bytes }
    }
}

impl Running {
    /// Takes more of the completion; returns what stays of it, and whether more can matter.
    pub fn push(&mut self, text: &str) -> (String, Flow) {
        self.num_bytes += text.len();
        self.resume(Parked { stage_index: 0, text: text.to_owned() })
    }

    /// As [`Running::push`], but stops before a step that would read much syntax.
    pub fn try_push(&mut self, text: &str) -> Taken {
        self.num_bytes += text.len();
        let may_parse = self.may_parse();
        let mut text = text.to_owned();
        for (stage_index, stage) in self.stages.iter_mut().enumerate() {
            // The grammar is asked at the ends of lines.
            if may_parse && stage.parses() && text.contains('\n') {
                return Taken::Parked(Parked { stage_index, text });
            }
            text = stage.push(&text, self.clock);
        }
        Taken::Done(text, self.flow())
    }

    /// Takes a piece through the rest of the steps; returns what stays of it, and whether more can matter.
    pub fn resume(&mut self, parked: Parked) -> (String, Flow) {
        let Parked { stage_index, mut text } = parked;
        for stage in &mut self.stages[stage_index..] {
            text = stage.push(&text, self.clock);
        }
        (text, self.flow())
    }

    /// Returns whether the next step may read much syntax, so that it is better done where that may take a while.
    pub fn may_parse(&self) -> bool {
        self.has_grammar
            && self.num_bytes >= PARKED_BYTES_MIN
            && self.stages.iter().any(Stage::parses)
    }

    fn flow(&self) -> Flow {
        let has_ended = self.stages.iter().any(|stage| stage.effect.is_end);
        if has_ended { Flow::Ended } else { Flow::Open }
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
    /// Returns whether the step may ask a grammar, and has not ended.
    fn parses(&self) -> bool {
        !self.effect.is_end && steps::parses(self.effect.step)
    }

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
