//! A server under load: clients that wait for their answers, or requests that arrive when they please.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde::Serialize;

use crate::bench::{
    Watch,
    arrivals::PoissonArrivals,
    dialect::Question,
    exchange::{Failure, Target, Timing, complete},
    random::Random,
    source_text::{self, Surroundings},
    statistics::Percentiles,
};

/// The stream of random numbers that arrivals come from; prompts have those of their indices.
const ARRIVALS: u64 = u64::MAX;

/// Who asks when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// So many clients, each of which asks again once it was answered.
    Clients(usize),
    /// Requests that arrive at so many a second, by chance, whether others were answered or not.
    Rate(f64),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompts {
    /// Code-like text of about so many tokens.
    Synthetic {
        /// Tokens of a prompt, about.
        num_tokens: usize,
        /// Whether each request has a text of its own, which no cache can know.
        is_distinct: bool,
    },
    /// These, in turn.
    Given(Vec<Surroundings>),
}

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct ServePlan {
    /// Who asks when.
    pub load: Load,
    /// Requests in all.
    pub num_requests: usize,
    /// What is asked.
    pub prompts: Prompts,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// Whether answers go on behind the model's own end.
    pub ignores_eos: bool,
    /// Draws prompts and arrivals.
    pub seed: u64,
}

/// Whom a measurement asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerFacts {
    /// `host[:port]`.
    pub address: String,
    /// How it was asked.
    pub dialect: &'static str,
    /// The model's name, as the server tells it.
    pub model: Option<String>,
}

/// Everything that `lacuna bench serve` says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServeResult {
    /// Who answered.
    pub server: ServerFacts,
    /// What was asked.
    pub settings: ServeSettings,
    /// From the first request to the last answer.
    pub duration_seconds: f64,
    /// How requests ended.
    pub requests: RequestCounts,
    /// Failures by their kind.
    pub errors: BTreeMap<String, usize>,
    /// Tokens of the requests that succeeded.
    pub tokens: TokenCounts,
    /// Over all clients together.
    pub throughput: Throughput,
    /// From a request to its first text.
    pub time_to_first_token_seconds: Option<Percentiles>,
    /// From each text to the next of the same answer; one text may hold several tokens.
    pub inter_token_seconds: Option<Percentiles>,
    /// From the first text of an answer to its end, by the tokens after the first.
    pub time_per_output_token_seconds: Option<Percentiles>,
    /// From a request to the end of its answer.
    pub total_seconds: Option<Percentiles>,
    /// Tokens of a prompt, as the server counts them.
    pub prompt_tokens: Option<Percentiles>,
    /// Tokens of an answer.
    pub completion_tokens: Option<Percentiles>,
    /// One a request, in the order of their ends.
    pub samples: Vec<Sample>,
}

/// What was asked, as typed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServeSettings {
    /// Clients that wait for their answers.
    pub clients: Option<usize>,
    /// Requests a second that do not wait.
    pub rate: Option<f64>,
    /// Requests in all.
    pub requests: usize,
    /// `synthetic` or `file`.
    pub prompts: &'static str,
    /// Tokens of a prompt as asked for.
    pub prompt_tokens: Option<usize>,
    /// Whether no two prompts are alike; `None` for those of a file.
    pub distinct: Option<bool>,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// Whether answers go on behind the model's own end.
    pub ignore_eos: bool,
    /// Draws prompts and arrivals.
    pub seed: u64,
}

/// How requests ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    /// Ended, one way or the other.
    pub ended: usize,
    /// With a whole answer.
    pub succeeded: usize,
    /// Without.
    pub failed: usize,
}

/// Tokens of the requests that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TokenCounts {
    /// Read; `None` where the server does not count.
    pub prompt: Option<u64>,
    /// Read, and at hand already.
    pub cached: Option<u64>,
    /// Written.
    pub completion: u64,
    /// Who counted what was written: `server`, or `pieces` where it did not and each text stands for a token.
    pub counted_by: &'static str,
}

/// Over all clients together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Throughput {
    /// Answers a second.
    pub requests_per_second: f64,
    /// Tokens written a second.
    pub completion_tokens_per_second: f64,
    /// Tokens read a second, cached ones included.
    pub prompt_tokens_per_second: Option<f64>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Which prompt it had.
    pub index: usize,
    /// When it was sent, from the start of the run.
    pub start_seconds: f64,
    /// From sending it to the first text; `None` where none came.
    pub time_to_first_token_seconds: Option<f64>,
    /// From sending it to its end.
    pub total_seconds: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Those of them that were at hand already.
    pub cached_tokens: Option<u64>,
    /// Tokens of the answer, by the server's count or else by pieces.
    pub completion_tokens: u64,
    /// The kind of its failure; `None` is a whole answer.
    pub error: Option<String>,
}

/// Asks `target` what `plan` says, until all was answered or `stop` comes: then what was answered so far is the result.
///
/// # Errors
/// A failure that every request would meet, before any succeeded.
pub async fn run(
    target: &Target,
    plan: &ServePlan,
    watch: &mut dyn Watch,
    stop: impl Future<Output = ()>,
) -> Result<(ServeResult, bool), Failure> {
    let running = Running {
        target,
        plan,
        began: Instant::now(),
        next_index: Cell::new(0),
        seen: RefCell::default(),
        watch: RefCell::new(watch),
    };
    let is_complete = tokio::select! {
        outcome = running.all() => outcome.map(|()| true)?,
        () = stop => false,
    };
    let (duration, seen) = (running.began.elapsed(), running.seen.into_inner());
    Ok((summarise(target, plan, duration, seen), is_complete))
}

struct Running<'a> {
    target: &'a Target,
    plan: &'a ServePlan,
    began: Instant,
    next_index: Cell<usize>,
    seen: RefCell<Seen>,
    watch: RefCell<&'a mut dyn Watch>,
}

/// What came back so far.
#[derive(Default)]
struct Seen {
    samples: Vec<Sample>,
    /// Between texts, over all answers.
    gaps: Vec<f64>,
    /// One an answer of more than one token.
    per_token: Vec<f64>,
    model: Option<String>,
    has_server_counts: bool,
    num_succeeded: usize,
}

impl Running<'_> {
    async fn all(&self) -> Result<(), Failure> {
        match self.plan.load {
            Load::Clients(num_clients) => {
                let mut clients: FuturesUnordered<_> =
                    (0..num_clients).map(|_| self.client()).collect();
                while let Some(outcome) = clients.next().await {
                    outcome?;
                }
                Ok(())
            }
            Load::Rate(per_second) => self.arrivals(per_second).await,
        }
    }

    async fn client(&self) -> Result<(), Failure> {
        while let Some(index) = self.take_index() {
            self.ask(index).await?;
        }
        Ok(())
    }

    async fn arrivals(&self, per_second: f64) -> Result<(), Failure> {
        let random = Random::new(self.plan.seed, ARRIVALS);
        let mut arrivals = PoissonArrivals::new(per_second, random).take(self.plan.num_requests);
        let mut waiting = FuturesUnordered::new();
        let mut next = arrivals.next();
        loop {
            let arrival = async {
                match next {
                    Some(at) => tokio::time::sleep_until((self.began + at).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = arrival => {
                    next = arrivals.next();
                    if let Some(index) = self.take_index() {
                        waiting.push(self.ask(index));
                    }
                }
                Some(outcome) = waiting.next(), if !waiting.is_empty() => outcome?,
            }
            if next.is_none() && waiting.is_empty() {
                return Ok(());
            }
        }
    }

    fn take_index(&self) -> Option<usize> {
        let index = self.next_index.get();
        self.next_index.set(index + 1);
        (index < self.plan.num_requests).then_some(index)
    }

    async fn ask(&self, index: usize) -> Result<(), Failure> {
        let surroundings = self.plan.surroundings(index);
        let question = Question {
            prefix: &surroundings.prefix,
            line: "",
            suffix: &surroundings.suffix,
            max_tokens: self.plan.max_tokens,
            ignores_eos: self.plan.ignores_eos,
            model: self.target.model.as_deref(),
        };
        let (start, began) = (self.began.elapsed(), Instant::now());
        let outcome = complete(self.target, &question).await;
        let total = began.elapsed();
        let mut seen = self.seen.borrow_mut();
        match outcome {
            Ok(timing) => seen.take(index, start, timing),
            Err(failure) if seen.num_succeeded == 0 && failure.is_lasting() => return Err(failure),
            Err(failure) => seen.fail(index, start, total, &failure),
        }
        let mut watch = self.watch.borrow_mut();
        watch.update(seen.samples.len(), self.plan.num_requests, "requests");
        Ok(())
    }
}

impl ServePlan {
    fn surroundings(&self, index: usize) -> Surroundings {
        match &self.prompts {
            Prompts::Synthetic { num_tokens, is_distinct } => {
                let stream = if *is_distinct { index as u64 } else { 0 };
                source_text::surroundings(&mut Random::new(self.seed, stream), *num_tokens)
            }
            Prompts::Given(given) => given[index % given.len()].clone(),
        }
    }

    fn settings(&self) -> ServeSettings {
        let (clients, rate) = match self.load {
            Load::Clients(num_clients) => (Some(num_clients), None),
            Load::Rate(rate) => (None, Some(rate)),
        };
        let (prompts, prompt_tokens, distinct) = match self.prompts {
            Prompts::Synthetic { num_tokens, is_distinct } => {
                ("synthetic", Some(num_tokens), Some(is_distinct))
            }
            Prompts::Given(_) => ("file", None, None),
        };
        ServeSettings {
            clients,
            rate,
            requests: self.num_requests,
            prompts,
            prompt_tokens,
            distinct,
            max_tokens: self.max_tokens,
            ignore_eos: self.ignores_eos,
            seed: self.seed,
        }
    }
}

impl Seen {
    fn take(&mut self, index: usize, start: Duration, timing: Timing) {
        self.num_succeeded += 1;
        self.has_server_counts |= timing.counts.is_some();
        let counts = timing.counts;
        let completion_tokens =
            counts.map_or(timing.num_pieces, |counts| counts.num_completion_tokens);
        if let Some(first) = timing.first_text
            && completion_tokens > 1
        {
            let writing = timing.total.saturating_sub(first).as_secs_f64();
            self.per_token.push(writing / (completion_tokens - 1) as f64);
        }
        self.gaps.extend(timing.gaps.iter().map(Duration::as_secs_f64));
        self.samples.push(Sample {
            index,
            start_seconds: start.as_secs_f64(),
            time_to_first_token_seconds: timing.first_text.map(|time| time.as_secs_f64()),
            total_seconds: timing.total.as_secs_f64(),
            prompt_tokens: counts.map(|counts| counts.num_prompt_tokens),
            cached_tokens: counts.and_then(|counts| counts.num_cached_tokens),
            completion_tokens,
            error: None,
        });
        self.model = timing.model.or(self.model.take());
    }

    fn fail(&mut self, index: usize, start: Duration, total: Duration, failure: &Failure) {
        self.samples.push(Sample {
            index,
            start_seconds: start.as_secs_f64(),
            time_to_first_token_seconds: None,
            total_seconds: total.as_secs_f64(),
            prompt_tokens: None,
            cached_tokens: None,
            completion_tokens: 0,
            error: Some(failure.kind()),
        });
    }
}

fn summarise(target: &Target, plan: &ServePlan, duration: Duration, seen: Seen) -> ServeResult {
    let mut errors = BTreeMap::new();
    for kind in seen.samples.iter().filter_map(|sample| sample.error.clone()) {
        *errors.entry(kind).or_default() += 1;
    }
    let answered = || seen.samples.iter().filter(|sample| sample.error.is_none());
    let percentiles = |of: &dyn Fn(&Sample) -> Option<f64>| {
        Percentiles::of(&answered().filter_map(of).collect::<Vec<f64>>())
    };
    let total = |of: fn(&Sample) -> Option<u64>| {
        seen.has_server_counts.then(|| answered().filter_map(of).fold(0, u64::saturating_add))
    };
    let prompt = total(|sample| sample.prompt_tokens);
    let has_cached = answered().any(|sample| sample.cached_tokens.is_some());
    let completion = answered().map(|sample| sample.completion_tokens).fold(0, u64::saturating_add);
    let seconds = duration.as_secs_f64();
    ServeResult {
        server: ServerFacts {
            address: target.server.authority().to_owned(),
            dialect: target.dialect.name(),
            model: seen.model.clone(),
        },
        settings: plan.settings(),
        duration_seconds: seconds,
        requests: RequestCounts {
            ended: seen.samples.len(),
            succeeded: seen.num_succeeded,
            failed: seen.samples.len() - seen.num_succeeded,
        },
        errors,
        tokens: TokenCounts {
            prompt,
            cached: total(|sample| sample.cached_tokens).filter(|_| has_cached),
            completion,
            counted_by: if seen.has_server_counts { "server" } else { "pieces" },
        },
        throughput: Throughput {
            requests_per_second: seen.num_succeeded as f64 / seconds,
            completion_tokens_per_second: completion as f64 / seconds,
            prompt_tokens_per_second: prompt.map(|tokens| tokens as f64 / seconds),
        },
        time_to_first_token_seconds: percentiles(&|sample| sample.time_to_first_token_seconds),
        inter_token_seconds: Percentiles::of(&seen.gaps),
        time_per_output_token_seconds: Percentiles::of(&seen.per_token),
        total_seconds: percentiles(&|sample| Some(sample.total_seconds)),
        prompt_tokens: percentiles(&|sample| sample.prompt_tokens.map(|tokens| tokens as f64)),
        completion_tokens: percentiles(&|sample| Some(sample.completion_tokens as f64)),
        samples: seen.samples,
    }
}
