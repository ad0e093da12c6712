//! `lacuna routes`: the routes in the settings, and where a request would go and why.

use std::{fmt::Write as _, path::PathBuf, sync::Arc};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::{
    cli::{
        CliError, print,
        routes::body::{Body, Dialect},
    },
    completion::{Asker, Language, Task},
    config::{Config, Environment, RawConfig, RouteConfig, RouteMatch},
    flags::pseudonym,
    routing::{
        NamedProvider, Router, RoutingObserver,
        route::{Chosen, Explanation, Facts, RouteTable, Start},
    },
    service::{ServedModels, ServedName},
};

mod body;

/// A body is at most this large: what no server takes explains nothing.
const BODY_BYTES_MAX: u64 = 64 << 20;

/// Puts the routes before all names that are served. Without routes everything stays as it is.
pub(super) fn routed(
    config: &Config,
    models: ServedModels,
    observer: Arc<dyn RoutingObserver>,
) -> (ServedModels, Option<Arc<Router>>) {
    if config.routes.is_empty() {
        return (models, None);
    }
    let named = |served: &ServedName| NamedProvider {
        name: served.name.clone(),
        provider: Arc::clone(served.service.provider()),
    };
    let providers = models.names().iter().map(named).collect();
    let router = Router::new(&config.routing, config.routes.clone(), providers, observer);
    let models = models.with_providers(|name, own| router.routed(name, Arc::clone(own)));
    (models, Some(router))
}

#[derive(Args, Debug)]
pub(super) struct RoutesArgs {
    #[command(subcommand)]
    command: RoutesCommand,
}

#[derive(Debug, Subcommand)]
enum RoutesCommand {
    /// List the routes, in the order in which they are asked.
    List(ListArgs),
    /// Say where a request would go and why, by the settings alone: whether a target does well is not asked.
    Explain(Box<ExplainArgs>),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// File of settings, see lacuna.example.toml [env: `LACUNA_CONFIG`].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct ExplainArgs {
    /// File of settings, see lacuna.example.toml [env: `LACUNA_CONFIG`].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// File with the request's body, as JSON.
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// Whose body it is; auto tells by its shape.
    #[arg(long, value_name = "auto|gitlab|openai", default_value = "auto")]
    dialect: String,
    /// What it is for, where the endpoint says that; auto tells by the body.
    #[arg(long, value_name = "auto|completion|generation", default_value = "auto")]
    task: String,
    /// Id of the user, or name of the API key.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Groups that the user belongs to, separated by commas.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    groups: Vec<String>,
    /// Whose GitLab it is.
    #[arg(long, value_name = "saas|self-managed")]
    realm: Option<String>,
    /// Feature flags in force, separated by commas.
    #[arg(long, value_name = "FLAGS", value_delimiter = ',')]
    flags: Vec<String>,
}

/// Runs the subcommand.
///
/// # Errors
/// [`CliError::Usage`] for settings and files that cannot be used.
pub(super) fn run(arguments: RoutesArgs, environment: &Environment) -> Result<(), CliError> {
    match arguments.command {
        RoutesCommand::List(arguments) => {
            let config = load(arguments.config, environment)?;
            print(&listed(&config.routes).context("cannot write the list")?)
        }
        RoutesCommand::Explain(arguments) => {
            let config = load(arguments.config.clone(), environment)?;
            let text = explain(&config, &arguments).map_err(CliError::Usage)?;
            print(&text)
        }
    }
}

fn load(file: Option<PathBuf>, environment: &Environment) -> Result<Config, CliError> {
    let file = file.or_else(|| environment.config_file());
    Ok(Config::load(&RawConfig::default(), environment, file.as_deref())?)
}

fn listed(routes: &[RouteConfig]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    if routes.is_empty() {
        return Ok("no routes: each model is served by itself\n".to_owned());
    }
    for route in routes {
        writeln!(text, "{}  {}", route.name, matched(&route.when))?;
        for target in &route.targets {
            let except: Vec<String> = target.except.iter().map(ToString::to_string).collect();
            let except = if except.is_empty() {
                String::new()
            } else {
                format!("  except {}", except.join(", "))
            };
            writeln!(text, "  {}  weight {}{except}", target.name, target.weight)?;
        }
        for (who, target) in &route.pins {
            writeln!(text, "  {who} begins with {target}")?;
        }
        if let Some(shadow) = &route.shadow {
            writeln!(text, "  {}% are copied to {}", shadow.percent, shadow.target)?;
        }
    }
    Ok(text)
}

/// Returns what a route is for.
fn matched(when: &RouteMatch) -> String {
    let tasks: Vec<String> = when.tasks.iter().map(|task| task.as_label().to_owned()).collect();
    let lists = [
        ("task", &tasks),
        ("model", &when.models),
        ("language", &when.languages),
        ("user", &when.users),
        ("group", &when.groups),
        ("realm", &when.realms),
        ("flag", &when.flags),
    ];
    let mut parts: Vec<String> = lists
        .into_iter()
        .filter(|(_, words)| !words.is_empty())
        .map(|(name, words)| format!("{name} {}", words.join(" or ")))
        .collect();
    parts.extend(when.prompt_bytes_min.map(|bytes| format!("at least {bytes} bytes")));
    parts.extend(when.prompt_bytes_max.map(|bytes| format!("at most {bytes} bytes")));
    if parts.is_empty() { "for all".to_owned() } else { format!("for {}", parts.join(", ")) }
}

fn explain(config: &Config, arguments: &ExplainArgs) -> anyhow::Result<String> {
    let about = std::fs::metadata(&arguments.request)
        .with_context(|| format!("cannot read {}", arguments.request.display()))?;
    if about.len() > BODY_BYTES_MAX {
        bail!("a body must be at most {BODY_BYTES_MAX} bytes, got {}", about.len());
    }
    let text = std::fs::read_to_string(&arguments.request)
        .with_context(|| format!("cannot read {}", arguments.request.display()))?;
    // serde's own words would quote what stands there.
    let json: Value = serde_json::from_str(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        anyhow!("{}:{line}:{column}: it is no JSON", arguments.request.display())
    })?;
    let dialect = Dialect::parse(&arguments.dialect)?;
    let body = Body::read(&json, dialect)?;
    let task = match arguments.task.as_str() {
        "auto" => body.task,
        word => Task::parse(word).with_context(|| {
            format!("`--task` must be auto, completion or generation, got {word}")
        })?,
    };
    let asker = Asker {
        task,
        user: arguments.user.as_deref().map(pseudonym),
        groups: arguments.groups.clone(),
        realm: arguments.realm.clone(),
        flags: arguments.flags.clone(),
        failed_at: Vec::new(),
    };
    let (name, model) = asked(config, &body.names);
    let facts = Facts {
        name: &name,
        model: &model,
        language: body.language,
        num_prompt_bytes: body.num_prompt_bytes,
        asker: &asker,
        draw: 0,
    };
    let table = RouteTable::from(config.routes.clone());
    Ok(told(&facts, &table.explain(&facts))?)
}

/// Returns the name that a request leads to and its model: the first of its names that is served, else the first model.
fn asked(config: &Config, names: &[String]) -> (String, String) {
    let models: Vec<_> = config.each_model().into_iter().map(|config| config.model).collect();
    let of = |name: &String| {
        let model =
            models.iter().find(|model| model.served_name == *name || model.aliases.contains(name));
        let adapters = || models.iter().flat_map(|model| &model.adapters);
        let adapter = || adapters().any(|adapter| adapter.name == *name).then(|| name.clone());
        let elsewhere = || config.providers.iter().any(|provider| provider.served_as == *name);
        let elsewhere = || elsewhere().then(|| name.clone());
        let own =
            model.map(|model| model.served_name.clone()).or_else(adapter).or_else(elsewhere)?;
        Some((name.clone(), own))
    };
    let served = config.served_names();
    let first = served.first().unwrap_or(&config.model.served_name);
    names.iter().find_map(of).unwrap_or_else(|| (first.clone(), first.clone()))
}

fn told(facts: &Facts<'_>, explanation: &Explanation<'_>) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let language = facts.language.map_or("unknown", Language::name);
    writeln!(text, "task      {}", facts.asker.task.as_label())?;
    writeln!(text, "model     {}", facts.name)?;
    writeln!(text, "language  {language}")?;
    writeln!(text, "prompt    {} bytes", facts.num_prompt_bytes)?;
    for (route, mismatch) in &explanation.passed {
        writeln!(text, "route `{route}` is passed over: {}", mismatch.as_text())?;
    }
    match &explanation.chosen {
        Some(chosen) => told_of(&mut text, chosen)?,
        None => writeln!(text, "no route is for it: `{}` itself answers", facts.name)?,
    }
    Ok(text)
}

fn told_of(text: &mut String, chosen: &Chosen<'_>) -> Result<(), std::fmt::Error> {
    let route = chosen.route;
    writeln!(text, "route `{}` is taken", route.name)?;
    let why = match &chosen.start {
        Start::First => "the first of the route".to_owned(),
        Start::Pinned(who) => format!("{who} is pinned to it"),
        Start::Split { weight, is_sticky: true } => {
            format!("weight {weight}, and this user always falls into it")
        }
        Start::Split { weight, is_sticky: false } => {
            format!("weight {weight}, by chance, for no user is known")
        }
    };
    for (place, index) in chosen.order.iter().enumerate() {
        let name = &route.targets[*index].name;
        let why = if place == 0 { why.as_str() } else { "where those before it cannot" };
        writeln!(text, "  {} `{name}`: {why}", place + 1)?;
    }
    for (index, target) in route.targets.iter().enumerate() {
        if !chosen.order.contains(&index) {
            writeln!(text, "  - `{}`: excepts who asks", target.name)?;
        }
    }
    if let Some(shadow) = &route.shadow {
        writeln!(text, "  {}% are copied to `{}`", shadow.percent, shadow.target)?;
    }
    Ok(())
}
