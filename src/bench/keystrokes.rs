//! Somebody types, and each key asks for a completion and calls off the one before.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::bench::{
    Watch,
    dialect::Question,
    exchange::{Exchange, Failure, Target, Timing},
    serve::ServerFacts,
    statistics::Percentiles,
    typing::{Keystroke, Typing},
};

/// What the client knows of a prompt's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// Nothing: it sends the text before and after the cursor.
    Plain,
    /// It sends the typed part of the line apart, as the beginning of the answer.
    LineStart,
}

impl ClientKind {
    /// Returns the name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::LineStart => "line-start",
        }
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeystrokesPlan {
    /// The keys.
    pub typing: Typing,
    /// What the client knows.
    pub client: ClientKind,
    /// From each key to the next; zero lets the next come with the first text for the one before.
    pub interval: Duration,
    /// Most tokens of an answer.
    pub max_tokens: u32,
}

/// Everything that `lacuna bench keystrokes` says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeystrokesResult {
    /// Who answered.
    pub server: ServerFacts,
    /// What was typed.
    pub settings: KeystrokesSettings,
    /// From the first key to the end.
    pub duration_seconds: f64,
    /// How keys ended.
    pub keys: KeyCounts,
    /// Failures by their kind.
    pub errors: BTreeMap<String, usize>,
    /// The first key, for which nothing was at hand.
    pub first_key: Option<KeySample>,
    /// From a key to the first text for it, over the keys after the first that had one and did not fail.
    pub time_to_first_token_seconds: Option<Percentiles>,
    /// Tokens of a prompt, over the keys after the first that were counted and did not fail.
    pub prompt_tokens: Option<Percentiles>,
    /// Tokens of a prompt that were computed for its key, over the same keys.
    pub recomputed_tokens: Option<Percentiles>,
    /// One a key.
    pub samples: Vec<KeySample>,
}

/// What was typed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeystrokesSettings {
    /// `plain` or `line-start`.
    pub client: &'static str,
    /// Keys of the run.
    pub keys: usize,
    /// Milliseconds from key to key; 0 follows the first text.
    pub interval_ms: u64,
    /// Most tokens of an answer.
    pub max_tokens: u32,
}

/// How keys ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyCounts {
    /// Pressed.
    pub typed: usize,
    /// Their answer ended by itself.
    pub ended: usize,
    /// Called off after their first text.
    pub cancelled: usize,
    /// Called off before any text: the next key came earlier.
    pub superseded: usize,
    /// Failed.
    pub failed: usize,
}

/// How a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyOutcome {
    /// Its answer ended by itself.
    Ended,
    /// Its answer was called off after the first text.
    Cancelled,
    /// The next key came before any text.
    Superseded,
    /// Its request failed.
    Failed,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeySample {
    /// From 0.
    pub index: usize,
    /// How it ended.
    pub outcome: KeyOutcome,
    /// From the key to the first text.
    pub time_to_first_token_seconds: Option<f64>,
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Those of them that were computed for this key.
    pub recomputed_tokens: Option<u64>,
    /// The kind of its failure.
    pub error: Option<String>,
}

/// Types what `plan` says and asks `target` at each key, until the end or `stop`.
///
/// # Errors
/// A failure that every key would meet, before any was answered.
pub async fn run(
    target: &Target,
    plan: &KeystrokesPlan,
    watch: &mut dyn Watch,
    stop: impl Future<Output = ()>,
) -> Result<(KeystrokesResult, bool), Failure> {
    let mut typed = Typed { target, plan, samples: Vec::new(), model: None };
    let began = Instant::now();
    let is_complete = tokio::select! {
        outcome = typed.all(watch) => outcome.map(|()| true)?,
        () = stop => false,
    };
    Ok((typed.summarise(began.elapsed()), is_complete))
}

struct Typed<'a> {
    target: &'a Target,
    plan: &'a KeystrokesPlan,
    samples: Vec<KeySample>,
    model: Option<String>,
}

impl Typed<'_> {
    async fn all(&mut self, watch: &mut dyn Watch) -> Result<(), Failure> {
        let num_keys = self.plan.typing.num_keys();
        let began = tokio::time::Instant::now();
        let mut text = String::new();
        for index in 0..num_keys {
            watch.update(index, num_keys, "keys");
            let until = match self.plan.interval {
                Duration::ZERO => None,
                interval => Some(began + interval * (index as u32 + 1)),
            };
            let keystroke = self.plan.typing.keystroke(index, &mut text);
            self.press(index, keystroke, until).await?;
            if let Some(until) = until {
                tokio::time::sleep_until(until).await;
            }
        }
        watch.update(num_keys, num_keys, "keys");
        Ok(())
    }

    /// Presses a key and follows its answer until the next one: the moment `until`, or the first text.
    async fn press(
        &mut self,
        index: usize,
        keystroke: Keystroke<'_>,
        until: Option<tokio::time::Instant>,
    ) -> Result<(), Failure> {
        let target = self.target;
        let before = format!("{}{}", keystroke.above, keystroke.line);
        let (prefix, line) = match self.plan.client {
            ClientKind::Plain => (before.as_str(), ""),
            ClientKind::LineStart => (keystroke.above, keystroke.line),
        };
        let question = Question {
            prefix,
            line,
            suffix: keystroke.after,
            max_tokens: self.plan.max_tokens,
            ignores_eos: false,
            model: target.model.as_deref(),
        };
        let mut exchange = None;
        let follow = async {
            let exchange = exchange.insert(Exchange::begin(target, &question).await?);
            while exchange.advance().await? {
                if until.is_none() && exchange.timing().first_text.is_some() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let patience = tokio::time::Instant::now() + target.timeout;
        let outcome = tokio::time::timeout_at(until.unwrap_or(patience).min(patience), follow);
        let outcome = match outcome.await {
            Ok(outcome) => outcome,
            Err(_) if until.is_none_or(|until| until > patience) => {
                Err(target.server.timeout(target.timeout).into())
            }
            Err(_) => Ok(false),
        };
        let timing = exchange.as_ref().map(|exchange| exchange.timing().clone());
        // Closing the connection is how an editor calls a request off.
        drop(exchange);
        self.take(index, timing.unwrap_or_default(), outcome)
    }

    fn take(
        &mut self,
        index: usize,
        timing: Timing,
        outcome: Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let (outcome, error) = match outcome {
            Ok(true) => (KeyOutcome::Ended, None),
            Ok(false) if timing.first_text.is_some() => (KeyOutcome::Cancelled, None),
            Ok(false) => (KeyOutcome::Superseded, None),
            Err(failure) => {
                let is_first = self.samples.iter().all(|key| key.outcome == KeyOutcome::Failed);
                if is_first && failure.is_lasting() {
                    return Err(failure);
                }
                (KeyOutcome::Failed, Some(failure.kind()))
            }
        };
        self.model = timing.model.or(self.model.take());
        self.samples.push(KeySample {
            index,
            outcome,
            time_to_first_token_seconds: timing.first_text.map(|time| time.as_secs_f64()),
            prompt_tokens: timing.counts.map(|counts| counts.num_prompt_tokens),
            recomputed_tokens: timing.counts.and_then(|counts| counts.num_recomputed_tokens()),
            error,
        });
        Ok(())
    }

    fn summarise(self, duration: Duration) -> KeystrokesResult {
        let mut errors = BTreeMap::new();
        for kind in self.samples.iter().filter_map(|key| key.error.clone()) {
            *errors.entry(kind).or_default() += 1;
        }
        let num = |outcome| self.samples.iter().filter(|key| key.outcome == outcome).count();
        // Part of a failed answer is no answer.
        let answered =
            || self.samples.iter().skip(1).filter(|key| key.outcome != KeyOutcome::Failed);
        let percentiles = |of: &dyn Fn(&KeySample) -> Option<f64>| {
            Percentiles::of(&answered().filter_map(of).collect::<Vec<f64>>())
        };
        KeystrokesResult {
            server: ServerFacts {
                address: self.target.server.authority().to_owned(),
                dialect: self.target.dialect.name(),
                model: self.model.clone(),
            },
            settings: KeystrokesSettings {
                client: self.plan.client.name(),
                keys: self.plan.typing.num_keys(),
                interval_ms: self.plan.interval.as_millis() as u64,
                max_tokens: self.plan.max_tokens,
            },
            duration_seconds: duration.as_secs_f64(),
            keys: KeyCounts {
                typed: self.samples.len(),
                ended: num(KeyOutcome::Ended),
                cancelled: num(KeyOutcome::Cancelled),
                superseded: num(KeyOutcome::Superseded),
                failed: num(KeyOutcome::Failed),
            },
            errors,
            first_key: self.samples.first().cloned(),
            time_to_first_token_seconds: percentiles(&|key| key.time_to_first_token_seconds),
            prompt_tokens: percentiles(&|key| key.prompt_tokens.map(|tokens| tokens as f64)),
            recomputed_tokens: percentiles(&|key| key.recomputed_tokens.map(|num| num as f64)),
            samples: self.samples,
        }
    }
}
