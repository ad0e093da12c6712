//! What is taken from a completion before it is handed on.
//!
//! A step reads a completion piece by piece and hands on what it keeps. It deletes, and never invents code: the one
//! step that adds, adds a line break. It takes any text, and finds nothing more to do in what it has left.
//! A piece that is handed on stays as it is, so a step keeps back what it may still delete; a step that must see all
//! before it keeps anything is passed over where an answer is streamed.

mod chain;
mod gap;
mod lexical;
mod steps;
#[cfg(test)]
mod tests;

pub use chain::{Chain, Effect, Parked, Running, Taken};
pub use gap::Gap;
pub use steps::MARKERS;

/// One step at work on one completion.
pub trait PostProcessor: Send {
    /// Takes more of the completion; appends to `kept` what will stay, whatever follows.
    fn push(&mut self, text: &str, kept: &mut String) -> Flow;

    /// Takes the end of the completion; appends to `kept` what stays of all that was kept back.
    ///
    /// It is called once, after [`Flow::Ended`] too.
    fn finish(&mut self, ending: &mut Ending, kept: &mut String);
}

/// Whether more of a completion can matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It can.
    Open,
    /// All that follows would be deleted.
    Ended,
}

/// How a completion ended.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ending {
    /// Whether the limit of tokens cut it, and its end is still where that was.
    pub is_cut: bool,
    /// Mean of the log-probabilities of its tokens, where they are known.
    pub mean_logprob: Option<f32>,
}
