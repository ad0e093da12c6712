//! A sign of life while a model loads: one line that grows on a terminal, a few log lines elsewhere.

use std::io::{self, IsTerminal as _, Write as _};

use tracing::info;

/// Shows how much of a model is loaded.
#[derive(Debug)]
pub struct LoadProgress {
    model: String,
    is_terminal: bool,
    percent_shown: Option<u64>,
}

/// Steps of the log lines; a terminal shows each percent.
const LOG_STEP_PERCENT: u64 = 25;

impl LoadProgress {
    /// Starts the progress of the model called `model` on standard error.
    pub fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            is_terminal: io::stderr().is_terminal(),
            percent_shown: None,
        }
    }

    /// Shows that `done` of `total` units, bytes or tensors, are loaded; repeats cost nothing.
    pub fn update(&mut self, done: u64, total: u64) {
        let Some(percent) = self.next_percent(done, total) else { return };
        if self.is_terminal {
            // The line is redrawn in place; a terminal that is gone is no reason to stop loading.
            let _ = write!(io::stderr(), "\rloading {} {percent:>3} %", self.model);
        } else {
            info!(model = self.model, percent, "loading");
        }
    }

    /// Ends the progress, so that what follows begins on a line of its own.
    pub fn finish(self) {
        if self.is_terminal && self.percent_shown.is_some() {
            let _ = writeln!(io::stderr());
        }
    }

    /// Returns the percent to show now, or `None` where it was shown already.
    fn next_percent(&mut self, done: u64, total: u64) -> Option<u64> {
        let step = if self.is_terminal { 1 } else { LOG_STEP_PERCENT };
        let percent = (u128::from(done.min(total)) * 100 / u128::from(total.max(1))) as u64;
        let percent = percent / step * step;
        if self.percent_shown.is_some_and(|shown| shown >= percent) {
            return None;
        }
        self.percent_shown = Some(percent);
        Some(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(is_terminal: bool, updates: &[(u64, u64)]) -> Vec<u64> {
        let mut progress =
            LoadProgress { model: "demo".to_owned(), is_terminal, percent_shown: None };
        updates.iter().filter_map(|(done, total)| progress.next_percent(*done, *total)).collect()
    }

    #[test]
    fn shows_each_step_once() {
        let updates: Vec<(u64, u64)> = (0..=1000).map(|done| (done, 1000)).collect();
        assert_eq!(shown(true, &updates), (0..=100).collect::<Vec<_>>());
        assert_eq!(shown(false, &updates), [0, 25, 50, 75, 100]);
    }

    #[test]
    fn odd_counts_do_no_harm() {
        assert_eq!(shown(true, &[(0, 0), (7, 3), (1, 3), (u64::MAX, u64::MAX)]), [0, 100]);
    }
}
