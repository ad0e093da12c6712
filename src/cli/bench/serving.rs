//! `lacuna bench serve` and `lacuna bench keystrokes`: both ask a running server.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use clap::{Args, ValueEnum};

use crate::{
    bench::{
        dialect::Dialect,
        exchange::{Failure, Target},
        keystrokes::{self, ClientKind, KeyCounts, KeystrokesPlan},
        random::Random,
        serve::{self, Load, Prompts, ServePlan},
        source_text::Surroundings,
        table,
        typing::Typing,
    },
    cli::{
        CliError,
        bench::{Output, Sink, watch::Progress},
        complete::read,
    },
    client::Server,
    config::Environment,
    server::Signals,
};

/// The stream of random numbers that places in a file come from.
const PLACES: u64 = 0;

/// Whom to ask.
#[derive(Args, Debug)]
struct TargetArgs {
    /// The server, such as <http://127.0.0.1:5052>.
    #[arg(long, value_name = "URL")]
    url: String,
    /// How to ask: OpenAI's /v1/completions with a suffix, or llama.cpp's /infill.
    #[arg(long, value_enum, default_value = "openai")]
    dialect: DialectName,
    /// Name of the model, for servers that must be told.
    #[arg(id = "asked_model", long = "model", value_name = "NAME")]
    model: Option<String>,
    /// Longest time of a request, in seconds.
    #[arg(id = "answer_timeout", long = "timeout", value_name = "S", default_value = "120",
        value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DialectName {
    #[value(name = "openai")]
    OpenAi,
    Infill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ClientName {
    Plain,
    LineStart,
}

#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Clients that ask again once they were answered.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=4096))]
    clients: u16,
    /// Requests a second that arrive by chance (Poisson), in place of clients that wait.
    #[arg(long, value_name = "R", conflicts_with = "clients", value_parser = rate)]
    rate: Option<f64>,
    /// Requests in all.
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// Tokens of a synthetic prompt, about; the result has what the server counted.
    #[arg(long, value_name = "N", default_value = "240", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    prompt_tokens: u32,
    /// Give each request a synthetic prompt of its own, so that no cache knows it.
    #[arg(long)]
    distinct: bool,
    /// Ask for the ends of lines drawn from this file, in place of synthetic prompts.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt_tokens", "distinct"])]
    prompt_file: Option<PathBuf>,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value = "48")]
    max_tokens: NonZeroU32,
    /// Go on behind the model's own end, so that all answers have the same length.
    #[arg(long)]
    ignore_eos: bool,
    /// Draws prompts and arrivals.
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
pub(super) struct KeystrokesArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// The file to type through, in UTF-8.
    file: PathBuf,
    /// What the client knows: line-start sends the typed part of the line apart, as llama.vim does.
    #[arg(long, value_enum, default_value = "plain")]
    client: ClientName,
    /// Line where typing begins, from 1; three quarters into the file without it.
    #[arg(long, value_name = "LINE")]
    start: Option<usize>,
    /// Keys to press.
    #[arg(long, value_name = "N", default_value = "60", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    keys: u32,
    /// Time from key to key, in milliseconds; 0 presses the next one when the first text for the one before came.
    #[arg(long, value_name = "MS", default_value = "0", value_parser = clap::value_parser!(u32).range(0..=60_000))]
    interval_ms: u32,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value = "16")]
    max_tokens: NonZeroU32,
    #[command(flatten)]
    output: Output,
}

fn rate(text: &str) -> Result<f64, &'static str> {
    let rate = text.parse().ok().filter(|rate| (0.001..=100_000.0).contains(rate));
    rate.ok_or("must be a number from 0.001 to 100000")
}

impl TargetArgs {
    fn target(&self, environment: &Environment) -> Result<Target, CliError> {
        let server = Server::parse(&self.url).map_err(|error| CliError::Usage(error.into()))?;
        Ok(Target {
            server: server.with_api_key(environment.api_key()),
            dialect: match self.dialect {
                DialectName::OpenAi => Dialect::OpenAi,
                DialectName::Infill => Dialect::Infill,
            },
            timeout: Duration::from_secs(self.timeout.into()),
            model: self.model.clone(),
        })
    }

    fn words(&self) -> String {
        let dialect = self.target_dialect().name();
        let model =
            self.model.as_ref().map_or_else(String::new, |model| format!(" --model {model}"));
        format!("--url {} --dialect {dialect}{model}", self.url)
    }

    fn target_dialect(&self) -> Dialect {
        match self.dialect {
            DialectName::OpenAi => Dialect::OpenAi,
            DialectName::Infill => Dialect::Infill,
        }
    }
}

pub(super) fn serve(arguments: &ServeArgs, environment: &Environment) -> Result<(), CliError> {
    let target = arguments.target.target(environment)?;
    let plan = ServePlan {
        load: match arguments.rate {
            Some(rate) => Load::Rate(rate),
            None => Load::Clients(arguments.clients.into()),
        },
        num_requests: arguments.requests as usize,
        prompts: match &arguments.prompt_file {
            Some(file) => Prompts::Given(places(file, arguments).map_err(CliError::Usage)?),
            None => Prompts::Synthetic {
                num_tokens: arguments.prompt_tokens as usize,
                is_distinct: arguments.distinct,
            },
        },
        max_tokens: arguments.max_tokens.get(),
        ignores_eos: arguments.ignore_eos,
        seed: arguments.seed,
    };
    let sink = Sink::open(&arguments.output)?;
    let mut progress = Progress::new()?;
    let measured = block_on(async |stop| serve::run(&target, &plan, &mut progress, stop).await)?;
    drop(progress);
    let requests = measured.0.requests;
    let shortfall = failures("requests", requests.failed, requests.ended, &measured.0.errors);
    sink.write("serve", serve_command(arguments), measured, table::serve)?;
    shortfall.map_or(Ok(()), Err)
}

/// Returns what a script must know of a run that ended, though its result was written: some of it failed.
fn failures(
    what: &str,
    num_failed: usize,
    num_all: usize,
    errors: &BTreeMap<String, usize>,
) -> Option<CliError> {
    let kinds: Vec<String> = errors.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let kinds = kinds.join(", ");
    (num_failed > 0)
        .then(|| CliError::Failed(anyhow!("{num_failed} of {num_all} {what} failed: {kinds}")))
}

fn serve_command(arguments: &ServeArgs) -> String {
    let load = match arguments.rate {
        Some(rate) => format!("--rate {rate}"),
        None => format!("--clients {}", arguments.clients),
    };
    let prompts = match &arguments.prompt_file {
        Some(file) => format!("--prompt-file {}", file_name(file)),
        None => format!("--prompt-tokens {}", arguments.prompt_tokens),
    };
    let flags = [(arguments.distinct, " --distinct"), (arguments.ignore_eos, " --ignore-eos")];
    let flags: String = flags.iter().filter_map(|(is_set, flag)| is_set.then_some(*flag)).collect();
    format!(
        "lacuna bench serve {} {load} --requests {} {prompts}{flags} --max-tokens {} --seed {}",
        arguments.target.words(),
        arguments.requests,
        arguments.max_tokens,
        arguments.seed
    )
}

/// Draws the ends of lines that have text.
fn places(file: &Path, arguments: &ServeArgs) -> anyhow::Result<Vec<Surroundings>> {
    let text = read(file)?;
    let mut ends = Vec::new();
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        let visible = line.trim_end();
        if !visible.is_empty() {
            ends.push(end + visible.len());
        }
        end += line.len();
    }
    ensure!(!ends.is_empty(), "{} has no text", file.display());
    let mut random = Random::new(arguments.seed, PLACES);
    let place = |_| {
        let (prefix, suffix) = text.split_at(*random.one_of(&ends));
        Surroundings { prefix: prefix.to_owned(), suffix: suffix.to_owned() }
    };
    // A few places tell as much as many, and each is a copy of the file.
    Ok((0..arguments.requests.min(64)).map(place).collect())
}

pub(super) fn keystrokes(
    arguments: &KeystrokesArgs,
    environment: &Environment,
) -> Result<(), CliError> {
    let target = arguments.target.target(environment)?;
    let client = match arguments.client {
        ClientName::Plain => ClientKind::Plain,
        ClientName::LineStart if target.dialect == Dialect::Infill => ClientKind::LineStart,
        ClientName::LineStart => {
            return Err(CliError::Usage(anyhow!(
                "--client line-start needs --dialect infill: OpenAI's request has no place for the typed line"
            )));
        }
    };
    let text = read(&arguments.file).map_err(CliError::Usage)?;
    let typing = Typing::new(&text, arguments.start, arguments.keys as usize);
    let plan = KeystrokesPlan {
        typing: typing.map_err(|error| CliError::Usage(error.into()))?,
        client,
        interval: Duration::from_millis(arguments.interval_ms.into()),
        max_tokens: arguments.max_tokens.get(),
    };
    let sink = Sink::open(&arguments.output)?;
    let mut progress = Progress::new()?;
    let measured =
        block_on(async |stop| keystrokes::run(&target, &plan, &mut progress, stop).await)?;
    drop(progress);
    let keys = measured.0.keys;
    let shortfall = failures("keys", keys.failed, keys.typed, &measured.0.errors)
        .or_else(|| none_answered(&keys));
    sink.write("keystrokes", keystrokes_command(arguments), measured, table::keystrokes)?;
    shortfall.map_or(Ok(()), Err)
}

/// Returns the failure of a run whose every key came before the text for the one before: it measured nothing.
fn none_answered(keys: &KeyCounts) -> Option<CliError> {
    let is_none = keys.ended + keys.cancelled == 0;
    is_none.then(|| {
        let num_keys = keys.typed;
        CliError::Failed(anyhow!(
            "none of {num_keys} keys was answered before the next; a longer --interval-ms waits"
        ))
    })
}

fn keystrokes_command(arguments: &KeystrokesArgs) -> String {
    let start = arguments.start.map_or_else(String::new, |start| format!(" --start {start}"));
    let client = match arguments.client {
        ClientName::Plain => ClientKind::Plain,
        ClientName::LineStart => ClientKind::LineStart,
    };
    format!(
        "lacuna bench keystrokes {} --client {} {}{start} --keys {} --interval-ms {} --max-tokens {}",
        arguments.target.words(),
        client.name(),
        file_name(&arguments.file),
        arguments.keys,
        arguments.interval_ms,
        arguments.max_tokens
    )
}

/// Names a file without its place, which is nobody's business in a result.
fn file_name(file: &Path) -> String {
    file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned()
}

/// Runs a measurement on this thread alone: the server may want the others. It gets a future that a signal completes.
fn block_on<T>(
    measure: impl AsyncFnOnce(&mut (dyn Future<Output = ()> + Unpin)) -> Result<T, Failure>,
) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the measurement")?;
    let measured = runtime.block_on(async {
        let mut signals = Signals::watch().context("cannot watch signals")?;
        let mut stop = Box::pin(async move { signals.next().await });
        anyhow::Ok(measure(&mut stop).await?)
    });
    Ok(measured?)
}
