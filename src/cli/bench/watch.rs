//! A progress bar on a terminal, and the signal that ends a measurement early.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    bench::Watch,
    cli::{CliError, runtime},
    server::Signals,
};

/// How often the bar is drawn while nothing changes, so that its clock goes on.
const TICK: Duration = Duration::from_millis(500);

/// Draws on standard error, and only where that is a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    is_stopped: Arc<AtomicBool>,
}

impl Progress {
    /// Draws; nothing stops it.
    pub(super) fn new() -> Result<Self, CliError> {
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg} {elapsed}")
            .context("the progress bar's form is broken")?;
        let bar = ProgressBar::new(0).with_style(style);
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Ok(Self { bar, is_stopped: Arc::default() })
    }

    /// Draws, and is stopped by a signal for as long as the returned runtime lives.
    pub(super) fn stopped_by_signal() -> Result<(Self, tokio::runtime::Runtime), CliError> {
        let progress = Self::new()?;
        let runtime = runtime(1)?;
        let mut signals = {
            let _entered = runtime.enter();
            Signals::watch().context("cannot watch signals")?
        };
        let is_stopped = Arc::clone(&progress.is_stopped);
        runtime.spawn(async move {
            signals.next().await;
            is_stopped.store(true, Ordering::Relaxed);
        });
        Ok((progress, runtime))
    }
}

impl Watch for Progress {
    fn update(&mut self, num_done: usize, num_all: usize, what: &str) {
        self.bar.set_length(num_all as u64);
        self.bar.set_position(num_done as u64);
        self.bar.set_message(what.to_owned());
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
