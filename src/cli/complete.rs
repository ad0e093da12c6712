//! `lacuna complete`: the completion of one place of a file, computed here or asked of a running server.

use std::{
    fs,
    io::{self, IsTerminal as _, Read as _},
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;

use crate::{
    cli::{
        CliError,
        compose::{Composed, compose},
        fetch::fetch,
        place, print, runtime, start_logs,
    },
    client::Server,
    completion::{CompletionRequest, Input, Language},
    config::{
        Config, Environment, RawConfig, RawLog,
        raw::{RawCompletion, RawEngine, RawHub, RawModel},
    },
    provider::CompletionEvent,
    service::{Account, CompletionService},
};

/// The options of `lacuna complete`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lacuna complete src/main.rs --line 12 --column 9
  git show HEAD:src/main.rs | lacuna complete - --line 12 --column 9 --max-tokens 32
  lacuna complete src/main.rs --line 12 --column 9 --url http://127.0.0.1:5052

With --url, --model is the name under which the server knows the model; the other settings are the server's.
Logs begin at warn here unless --log says otherwise.")]
pub struct CompleteArgs {
    /// The file, in UTF-8; - reads standard input.
    file: PathBuf,
    /// Line of the gap, from 1.
    #[arg(long, value_name = "L")]
    line: usize,
    /// Column of the gap, from 1, in characters; one more than the line has is its end.
    #[arg(long, value_name = "C")]
    column: usize,
    /// Ask a running server, such as <http://127.0.0.1:5052>, instead of loading a model.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Answer with this adapter, one of --adapters.
    #[arg(long, value_name = "NAME", conflicts_with = "url")]
    adapter: Option<String>,
    /// Most tokens of the completion.
    #[arg(long, value_name = "N")]
    max_tokens: Option<NonZeroU32>,
    /// File of settings, see lacuna.example.toml [env: `LACUNA_CONFIG`].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    model: RawModel,
    #[command(flatten)]
    hub: RawHub,
    #[command(flatten)]
    engine: RawEngine,
    #[command(flatten)]
    completion: RawCompletion,
    #[command(flatten)]
    log: RawLog,
}

/// Prints the completion.
///
/// # Errors
/// [`CliError::Usage`] for a file, place or setting that cannot be used, else [`CliError::Failed`].
pub(super) fn run(arguments: CompleteArgs, environment: &Environment) -> Result<(), CliError> {
    let CompleteArgs { file, line, column, url, adapter, max_tokens, config, .. } = arguments;
    let text = read(&file).map_err(CliError::Usage)?;
    let (prefix, suffix) =
        place::split(&text, line, column).map_err(|error| CliError::Usage(error.into()))?;
    let server = url.as_deref().map(Server::parse).transpose();
    let server = server.map_err(|error| CliError::Usage(error.into()))?;
    let server = server.map(|server| server.with_api_key(environment.api_key()));
    let mut raw = RawConfig {
        model: arguments.model,
        hub: arguments.hub,
        engine: arguments.engine,
        completion: arguments.completion,
        log: arguments.log,
        ..RawConfig::default()
    };
    raw.log.filter.get_or_insert_with(|| "warn".to_owned());
    // To a server the name is a name; only here could it be a folder, so it must not be checked as one.
    let remote_model = if server.is_some() { raw.model.source.take() } else { None };
    let path = config.or_else(|| environment.config_file());
    let mut config = Config::load(&raw, environment, path.as_deref())?;
    choose_adapter(&mut config, adapter.as_deref())?;
    start_logs(&config.log)?;
    let runtime = runtime(config.server.num_worker_threads)?;
    let gap = Gap { prefix, suffix, file: &file, max_tokens };
    if let Some(server) = server {
        print(&runtime.block_on(ask(&server, &gap, remote_model.as_deref(), &config))?)?;
    } else {
        runtime.block_on(fetch(&config))?;
        let _entered = runtime.enter();
        let Composed { service, adapters, engine: _engine, .. } = compose(&config)?;
        let service = adapters.into_iter().next().unwrap_or(service);
        runtime.block_on(complete(&service, &gap))?;
    }
    // A shell's prompt should begin on its own line; a script gets the completion to the byte.
    if io::stdout().is_terminal() { print("\n") } else { Ok(()) }
}

/// Leaves the adapter that is to answer, or none: others would be loaded for nothing.
fn choose_adapter(config: &mut Config, adapter: Option<&str>) -> Result<(), CliError> {
    let adapters = &mut config.model.adapters;
    let names: Vec<&str> = adapters.iter().map(|known| known.name.as_str()).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    adapters.retain(|known| Some(known.name.as_str()) == adapter);
    match adapter {
        Some(_) if adapters.is_empty() => Err(CliError::Usage(anyhow!(
            "--adapter must be one of `model.adapters` (--adapters), which names {names}"
        ))),
        _ => Ok(()),
    }
}

struct Gap<'a> {
    prefix: &'a str,
    suffix: &'a str,
    file: &'a Path,
    max_tokens: Option<NonZeroU32>,
}

/// More than any source file has, and less than what a device without end would fill.
const FILE_BYTES_MAX: u64 = 64 << 20;

fn read_regular(file: &Path) -> anyhow::Result<Vec<u8>> {
    // A pipe without a writer would wait for ever.
    if !fs::metadata(file)?.is_file() {
        bail!("it is no regular file");
    }
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a file of text, or standard input for `-`.
pub(super) fn read(file: &Path) -> anyhow::Result<String> {
    let bytes = if file == Path::new("-") {
        let mut bytes = Vec::new();
        let mut input = io::stdin().take(FILE_BYTES_MAX + 1);
        input.read_to_end(&mut bytes).context("cannot read standard input")?;
        bytes
    } else {
        read_regular(file).with_context(|| format!("cannot read {}", file.display()))?
    };
    if bytes.len() as u64 > FILE_BYTES_MAX {
        bail!("{} must have at most {FILE_BYTES_MAX} bytes", file.display());
    }
    // The error's own text names an offset only, no text of the file.
    String::from_utf8(bytes).map_err(|error| {
        anyhow!(error.utf8_error()).context(format!("{} must be UTF-8", file.display()))
    })
}

async fn ask(
    server: &Server,
    gap: &Gap<'_>,
    model: Option<&str>,
    config: &Config,
) -> anyhow::Result<String> {
    let mut body = serde_json::json!({
        "prompt": gap.prefix,
        "suffix": gap.suffix,
        "temperature": 0,
    });
    if let Some(model) = model {
        body["model"] = model.into();
    }
    if let Some(max_tokens) = gap.max_tokens {
        body["max_tokens"] = max_tokens.get().into();
    }
    let answer = server.post("/v1/completions", &body, config.completion.timeout).await?;
    let text = answer["choices"][0]["text"].as_str();
    Ok(text.context("the server's answer has no choice with a text")?.to_owned())
}

async fn complete(service: &CompletionService, gap: &Gap<'_>) -> Result<(), CliError> {
    let file_name = gap.file.to_string_lossy();
    let request = CompletionRequest {
        language: Language::detect(&file_name, None),
        file_name: Some(file_name.into_owned()),
        max_tokens: gap.max_tokens.map(NonZeroU32::get),
        ..CompletionRequest::of(Input::Fim {
            prefix: gap.prefix.to_owned(),
            suffix: gap.suffix.to_owned(),
        })
    };
    let account = Account::open("complete", "cli.complete");
    account.streaming(true);
    let mut stream = service.complete(request, account).await.context("cannot complete")?;
    while let Some(event) = stream.next().await {
        match event.context("the completion broke off")? {
            CompletionEvent::Chunk(chunk) => print(&chunk.text)?,
            CompletionEvent::Done(_) => break,
        }
    }
    Ok(())
}
