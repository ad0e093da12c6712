//! How a pull goes: a bar a file on a terminal, a few log lines elsewhere.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use tracing::{info, warn};

use crate::{config::HubModel, hub::PullEvent};

/// How often a bar is drawn while nothing changes, so that its clock goes on.
const TICK: Duration = Duration::from_millis(500);
/// Caption of the bar below the others.
const ALL_FILES: &str = "all files";
/// Steps of the log lines, over all files.
const LOG_STEP_PERCENT: u64 = 10;

/// Shows the events of one pull on standard error.
pub(in crate::cli) struct PullProgress {
    model: String,
    /// `None` where standard error is no terminal.
    bars: Option<MultiProgress>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Characters of the longest file's name.
    caption_width: usize,
    /// Of each wanted file: how much of it is there, and its size.
    files: BTreeMap<String, (u64, u64)>,
    /// Of each file that is being downloaded.
    bars: BTreeMap<String, ProgressBar>,
    total: Option<ProgressBar>,
    percent_shown: u64,
}

impl PullProgress {
    /// Shows nothing yet.
    pub(in crate::cli) fn new(model: &HubModel) -> Self {
        let bars = io::stderr().is_terminal().then(MultiProgress::new);
        Self { model: model.to_string(), bars, state: Mutex::default() }
    }

    /// Shows an event.
    pub(in crate::cli) fn show(&self, event: &PullEvent<'_>) {
        // What a panic left behind is numbers to show.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match *event {
            PullEvent::Listed { commit, files, num_bytes_missing } => {
                state.files = files.iter().map(|(file, size)| (file.clone(), (0, *size))).collect();
                let names = state.files.keys().map(|file| file.chars().count());
                state.caption_width = names.max().unwrap_or(0).max(ALL_FILES.len());
                self.list(&mut state, commit, num_bytes_missing);
            }
            PullEvent::Kept { commit, error } => {
                self.say(&format!("it is there already, of commit {commit}; what is newer was not asked for: {error}"));
            }
            PullEvent::Advanced { file, num_bytes } => {
                state.advance(file, num_bytes);
                if let Some(bars) = &self.bars {
                    state.draw(bars, file, num_bytes);
                } else if let Some(percent) = state.next_percent() {
                    info!(model = self.model, percent, "pulling");
                }
            }
            PullEvent::Waiting { file } => {
                self.say(&format!("{file}: another process downloads it; waiting"));
            }
            PullEvent::Retry { file, error, delay } => {
                self.say(&format!("{file}: {error}; again in {delay:?}"));
            }
            PullEvent::Finished { file, num_bytes } => {
                state.advance(file, num_bytes);
                if let Some(bar) = state.bars.remove(file) {
                    bar.finish_and_clear();
                }
            }
        }
    }

    fn list(&self, state: &mut State, commit: &str, num_bytes_missing: u64) {
        let num_files = state.files.len();
        if let Some(bars) = &self.bars {
            let (model, missing) = (&self.model, HumanBytes(num_bytes_missing));
            let _ = bars.println(format!(
                "{model}: commit {commit}, {num_files} files, {missing} to download"
            ));
            let all = state.files.values().map(|(_, size)| size).sum();
            let bar =
                bars.add(ProgressBar::new(all).with_style(style(ALL_FILES, state.caption_width)));
            bar.enable_steady_tick(TICK);
            state.total = Some(bar);
        } else {
            info!(model = self.model, commit, num_files, num_bytes_missing, "pulling");
        }
    }

    /// Says what is no matter of progress: above the bars, or in the log.
    fn say(&self, message: &str) {
        if let Some(bars) = &self.bars {
            let _ = bars.println(message);
        } else {
            warn!(model = self.model, "{message}");
        }
    }
}

impl Drop for PullProgress {
    /// Clears the bars, after an interruption too.
    fn drop(&mut self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for bar in state.bars.values().chain(&state.total) {
            bar.finish_and_clear();
        }
    }
}

impl State {
    fn advance(&mut self, file: &str, num_bytes: u64) {
        if let Some((done, _)) = self.files.get_mut(file) {
            *done = num_bytes;
        }
        if let Some(total) = &self.total {
            total.set_position(self.num_done());
        }
    }

    fn draw(&mut self, bars: &MultiProgress, file: &str, num_bytes: u64) {
        let size = self.files.get(file).map_or(0, |(_, size)| *size);
        let bar = self.bars.entry(file.to_owned()).or_insert_with(|| {
            // What was there before must not count into the speed.
            let bar = ProgressBar::new(size)
                .with_style(style(file, self.caption_width))
                .with_position(num_bytes);
            let bar = bars.insert_from_back(1, bar);
            bar.reset_eta();
            bar
        });
        bar.set_position(num_bytes);
    }

    fn num_done(&self) -> u64 {
        self.files.values().map(|(done, _)| done).sum()
    }

    /// Returns the percent to log now, or `None` where it was logged already.
    fn next_percent(&mut self) -> Option<u64> {
        let size: u64 = self.files.values().map(|(_, size)| size).sum();
        let percent = (u128::from(self.num_done()) * 100 / u128::from(size.max(1))) as u64;
        let percent = percent / LOG_STEP_PERCENT * LOG_STEP_PERCENT;
        if percent <= self.percent_shown {
            return None;
        }
        self.percent_shown = percent;
        Some(percent)
    }
}

fn style(caption: &str, width: usize) -> ProgressStyle {
    // Braces would be a place to fill.
    let caption = format!("{caption:<width$}").replace('{', "{{").replace('}', "}}");
    let template =
        format!("{caption} {{wide_bar}} {{bytes}}/{{total_bytes}} {{bytes_per_sec}}, {{eta}} left");
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_each_step_once_over_all_files() {
        let sizes = [("a".to_owned(), 100), ("b".to_owned(), 300)];
        let files = sizes.iter().map(|(file, size)| (file.clone(), (0, *size))).collect();
        let mut state = State { files, ..State::default() };
        let mut shown = Vec::new();
        for num_bytes in (0..=100).step_by(5) {
            state.advance("a", num_bytes);
            shown.extend(state.next_percent());
        }
        state.advance("b", 300);
        shown.extend(state.next_percent());
        assert_eq!(shown, [10, 20, 100]);
        state.advance("unknown", 7);
        assert_eq!(state.next_percent(), None);
    }
}
