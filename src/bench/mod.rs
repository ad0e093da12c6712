//! Measuring: this machine, this engine, and servers over HTTP, ours and others'.
//!
//! The pure half knows no clock: [`statistics`], [`random`] and [`arrivals`], [`source_text`] and [`typing`] (what is
//! asked), [`dialect`] (how it is asked), [`foreign`] (how a server's own words are shown), [`report`] and
//! [`table`] (what comes out). The shell measures: [`engine`] drives an executor step by step, [`exchange`] times one
//! streamed completion, [`serve`] many of them, [`keystrokes`] the completions of somebody who types, [`bandwidth`] the
//! memory, [`operators`] the large operators by themselves.

pub mod arrivals;
pub mod bandwidth;
pub mod dialect;
pub mod engine;
pub mod exchange;
pub mod foreign;
pub mod keystrokes;
pub mod machine;
pub mod operators;
pub mod random;
pub mod report;
pub mod serve;
pub mod source_text;
pub mod statistics;
pub mod table;
pub mod typing;

/// What a measurement reports about its own progress, and is told in return.
pub trait Watch {
    /// Says that `num_done` of `num_all` units are done; `what` is under way.
    fn update(&mut self, num_done: usize, num_all: usize, what: &str);

    /// Returns whether somebody asked for the end: what was measured so far is then the result.
    fn is_stopped(&self) -> bool;
}
