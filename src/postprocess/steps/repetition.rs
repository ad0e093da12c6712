//! Ends a completion that says the same again and again, after the first time.
//!
//! For each length of a period a counter tells how many characters in a row equal those a period before; when enough
//! do, it is a loop. What equals its past is kept back, for it may be the beginning of one.

use std::sync::Arc;

use crate::postprocess::{Ending, Flow, Gap, PostProcessor, steps::Tail};

/// Longest period, in characters: a dozen lines.
const PERIOD_MAX: usize = 512;
/// Periods shorter than this are parts of a line: rows of numbers repeat them in good faith.
const LINE_PERIOD: usize = 16;
/// Longer ones are loops at the third time, shorter at the fourth.
const LONG_PERIOD: usize = 128;
/// Least characters that repeat where a period is a part of a line.
const SHORT_RUN_MIN: usize = 96;
/// The same where the limit of tokens cut the completion at its end: who means a row of numbers ends it.
const CUT_RUN_MIN: usize = 32;
/// Least characters that repeat where nothing in a period is a letter or digit: rulers, borders, indentation.
const SIGNS_RUN_MIN: usize = 160;

struct Repetition {
    tail: Tail,
    characters: Vec<char>,
    /// By period: how many characters in a row equal those a period before.
    runs: Vec<usize>,
    is_loop: bool,
}

pub(super) fn begin(_: Arc<Gap>) -> Box<dyn PostProcessor> {
    let runs = vec![0; PERIOD_MAX + 1];
    Box::new(Repetition { tail: Tail::default(), characters: Vec::new(), runs, is_loop: false })
}

impl PostProcessor for Repetition {
    fn push(&mut self, text: &str, kept: &mut String) -> Flow {
        for c in text.chars() {
            if self.is_loop {
                break;
            }
            self.tail.text.push(c);
            self.take(c);
            if let Some(run) = self.looping(SHORT_RUN_MIN) {
                self.tail.cut_to(self.before_last(run));
                self.is_loop = true;
            }
        }
        if self.is_loop {
            return Flow::Ended;
        }
        let longest = self.runs.iter().copied().max().unwrap_or_default();
        let end = self.before_last(longest);
        self.tail.keep_to(end, kept);
        Flow::Open
    }

    fn finish(&mut self, ending: &mut Ending, kept: &mut String) {
        if let Some(run) = self.looping(CUT_RUN_MIN).filter(|_| ending.is_cut && !self.is_loop) {
            self.tail.cut_to(self.before_last(run));
            ending.is_cut = false;
        }
        self.tail.keep_all(kept);
    }
}

impl Repetition {
    fn take(&mut self, c: char) {
        let num_before = self.characters.len();
        for (period, run) in self.runs.iter_mut().enumerate().skip(1).take(num_before) {
            *run = if self.characters[num_before - period] == c { *run + 1 } else { 0 };
        }
        self.characters.push(c);
    }

    /// Returns how many characters repeat, if they are a loop; parts of a line repeat in so many at least.
    fn looping(&self, short_run_min: usize) -> Option<usize> {
        let is_loop = |period: usize, run: usize| {
            let times = if period > LONG_PERIOD { 2 } else { 3 };
            let least = if period < LINE_PERIOD { short_run_min } else { 0 };
            if run < (times * period).max(least) {
                return false;
            }
            // Three times a period is a period too; the shortest has the longest run.
            let is_multiple =
                |shorter: &usize| period.is_multiple_of(*shorter) && self.runs[*shorter] >= run;
            if (1..period).any(|shorter| is_multiple(&shorter)) {
                return false;
            }
            let last = &self.characters[self.characters.len() - period..];
            run >= SIGNS_RUN_MIN || last.iter().any(|c| c.is_alphanumeric())
        };
        let runs = self.runs.iter().copied().enumerate().skip(1);
        runs.filter(|(period, run)| is_loop(*period, *run)).map(|(_, run)| run).max()
    }

    /// Returns where the last so many characters begin.
    fn before_last(&self, num_characters: usize) -> usize {
        let last = &self.characters[self.characters.len() - num_characters..];
        self.tail.text.len() - last.iter().map(|c| c.len_utf8()).sum::<usize>()
    }
}
