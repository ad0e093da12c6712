//! The tables of `[[routes]]`: which requests a route is for, and whom they are sent to.

use std::{collections::HashSet, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    completion::{Language, Task},
    config::{
        ConfigError, Violation, file,
        layers::{defaults, entries},
        units::{format_size, parse_size},
    },
};

/// Most routes, and most targets of one.
const ROUTES_MAX: usize = 256;
/// Most words of a list.
const WORDS_MAX: usize = 1024;
/// The realms that GitLab knows.
const REALMS: [&str; 2] = ["saas", "self-managed"];
/// What weights sum up to.
const WHOLE: u32 = 100;

/// A table of `[[routes]]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawRoute {
    /// What people call it.
    pub name: Option<String>,
    /// `completion`, `generation`.
    pub tasks: Option<Vec<String>>,
    /// Names that clients ask for.
    pub models: Option<Vec<String>>,
    /// Languages of the file.
    pub languages: Option<Vec<String>>,
    /// Ids of users, or names of API keys.
    pub users: Option<Vec<String>>,
    /// Ids of groups and namespaces.
    pub groups: Option<Vec<String>>,
    /// `saas`, `self-managed`.
    pub realms: Option<Vec<String>>,
    /// Feature flags in force.
    pub flags: Option<Vec<String>>,
    /// Least size of the texts that a prompt is made of.
    pub min_prompt_size: Option<String>,
    /// Largest size of them.
    pub max_prompt_size: Option<String>,
    /// Who begins with which target, whatever the weights say: `user:ID=TARGET`.
    pub pins: Option<Vec<String>>,
    /// Whom a share of the requests is copied to: `TARGET=5%`.
    pub shadow: Option<String>,
    /// Whom they are sent to.
    pub targets: Option<Vec<RawTarget>>,
}

/// A table of `[[routes.targets]]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawTarget {
    /// A name that is served.
    pub target: Option<String>,
    /// Percent of the askers that begin with it.
    pub weight: Option<i64>,
    /// Whose requests never go there: `user:ID`, `group:ID`, `realm:REALM`, `flag:FLAG`.
    pub except: Option<Vec<String>>,
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfig {
    /// What people call it.
    pub name: String,
    /// Which requests it is for.
    pub when: RouteMatch,
    /// Whom they are sent to, in the order of the fallback.
    pub targets: Vec<RouteTarget>,
    /// Who begins with which target.
    pub pins: Vec<(Who, String)>,
    /// Whom a share is copied to.
    pub shadow: Option<ShadowConfig>,
}

/// Which requests a route is for: of each list that is not empty one word must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteMatch {
    /// What the completion is for.
    pub tasks: Vec<Task>,
    /// The name asked for, or the own name of its model.
    pub models: Vec<String>,
    /// Language of the file.
    pub languages: Vec<String>,
    /// Who asks.
    pub users: Vec<String>,
    /// What they belong to.
    pub groups: Vec<String>,
    /// Whose GitLab it is.
    pub realms: Vec<String>,
    /// Flags in force.
    pub flags: Vec<String>,
    /// Least size of the prompt's texts.
    pub prompt_bytes_min: Option<u64>,
    /// Largest size of them.
    pub prompt_bytes_max: Option<u64>,
}

/// Whom requests are sent to.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteTarget {
    /// A name that is served.
    pub name: String,
    /// Percent of the askers that begin with it.
    pub weight: u32,
    /// Whose requests never go there.
    pub except: Vec<Who>,
}

/// Somebody.
#[derive(Clone, Debug, PartialEq)]
pub enum Who {
    /// A user's id, or the name of an API key.
    User(String),
    /// Who belongs to a group or namespace.
    Group(String),
    /// The users of `saas` or `self-managed`.
    Realm(String),
    /// Whoever has a feature flag.
    Flag(String),
}

impl Who {
    fn parse(text: &str) -> Option<Self> {
        let (kind, id) = text.split_once(':')?;
        let id = Some(id.to_owned()).filter(|id| !id.is_empty())?;
        match kind {
            "user" => Some(Self::User(id)),
            "group" => Some(Self::Group(id)),
            "realm" if REALMS.contains(&id.as_str()) => Some(Self::Realm(id)),
            "flag" => Some(Self::Flag(id)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(id) => write!(f, "user:{id}"),
            Self::Group(id) => write!(f, "group:{id}"),
            Self::Realm(realm) => write!(f, "realm:{realm}"),
            Self::Flag(flag) => write!(f, "flag:{flag}"),
        }
    }
}

/// Whom a share of the requests is copied to.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowConfig {
    /// A name that is served.
    pub target: String,
    /// The share.
    pub percent: f64,
}

/// Reads the `[[routes]]` of a file of settings, checked as a whole; `targets` are the names that are served.
///
/// # Errors
/// The file cannot be read, or breaks a rule.
pub fn load_routes(path: &Path, targets: &[String]) -> Result<Vec<RouteConfig>, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let known: Vec<String> = entries(&defaults()?).into_iter().map(|(key, _)| key).collect();
    let file = file::parse(&text, &path.display().to_string(), Some(&known))?;
    let routes = resolve_routes(file.raw.routes.clone().unwrap_or_default(), targets);
    routes.map_err(|violation| {
        let origin = file.place(&violation.key).map(|place| format!("at {place}"));
        ConfigError::Value { violation, origin }
    })
}

/// Checks `[[routes]]`; `targets` are the names that are served.
pub(in crate::config) fn resolve_routes(
    raw: Vec<RawRoute>,
    targets: &[String],
) -> Result<Vec<RouteConfig>, Violation> {
    if raw.len() > ROUTES_MAX {
        return Err(broken("routes", &format!("at most {ROUTES_MAX} tables"), raw.len()));
    }
    let mut names = HashSet::new();
    let mut routes = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let table = Table { index, targets };
        let route = table.route(raw)?;
        if !names.insert(route.name.clone()) {
            return Err(broken(
                table.key("name"),
                "a name of its own",
                format!("{:?}", route.name),
            ));
        }
        routes.push(route);
    }
    Ok(routes)
}

/// A table by its place, with what its targets may be.
struct Table<'a> {
    index: usize,
    targets: &'a [String],
}

impl Table<'_> {
    fn key(&self, key: &str) -> String {
        format!("routes[{}].{key}", self.index)
    }

    fn route(&self, raw: RawRoute) -> Result<RouteConfig, Violation> {
        let name = raw.name.clone().unwrap_or_default();
        let is_name = (1..=64).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        if !is_name {
            let rule = "1 to 64 letters, digits, `_`, `-` or `.`";
            return Err(broken(self.key("name"), rule, format!("{name:?}")));
        }
        let targets = self.route_targets(raw.targets.clone().unwrap_or_default())?;
        let pins = self.pins(raw.pins.as_deref().unwrap_or_default(), &targets)?;
        let shadow = raw.shadow.clone().map(|text| self.shadow(&text)).transpose()?;
        Ok(RouteConfig { name, when: self.when(raw)?, targets, pins, shadow })
    }

    fn when(&self, raw: RawRoute) -> Result<RouteMatch, Violation> {
        let tasks = self.words("tasks", raw.tasks)?;
        let task = |word: &String| {
            let rule = "some of completion, generation";
            Task::parse(word).ok_or_else(|| broken(self.key("tasks"), rule, format!("{word:?}")))
        };
        let languages = self.words("languages", raw.languages)?;
        if let Some(word) = languages.iter().find(|word| !Language::is_name(word)) {
            let rule = "languages by their names, such as go, js, python";
            return Err(broken(self.key("languages"), rule, format!("{word:?}")));
        }
        let models = self.words("models", raw.models)?;
        if let Some(word) = models.iter().find(|word| !self.targets.contains(word)) {
            return Err(broken(self.key("models"), &self.served(), format!("{word:?}")));
        }
        let realms = self.words("realms", raw.realms)?;
        if let Some(word) = realms.iter().find(|word| !REALMS.contains(&word.as_str())) {
            return Err(broken(
                self.key("realms"),
                "some of saas, self-managed",
                format!("{word:?}"),
            ));
        }
        let prompt_bytes_min = self.size("min_prompt_size", raw.min_prompt_size)?;
        let prompt_bytes_max = self.size("max_prompt_size", raw.max_prompt_size)?;
        if let (Some(least), Some(most)) = (prompt_bytes_min, prompt_bytes_max)
            && least > most
        {
            let rule = format!("at least `min_prompt_size`, which is {}", format_size(least));
            return Err(broken(self.key("max_prompt_size"), &rule, format_size(most)));
        }
        Ok(RouteMatch {
            tasks: tasks.iter().map(task).collect::<Result<_, _>>()?,
            models,
            languages,
            users: self.words("users", raw.users)?,
            groups: self.words("groups", raw.groups)?,
            realms,
            flags: self.words("flags", raw.flags)?,
            prompt_bytes_min,
            prompt_bytes_max,
        })
    }

    /// A list that is there is a rule: an empty one would look like one and hold for nobody or for all.
    fn words(&self, key: &str, words: Option<Vec<String>>) -> Result<Vec<String>, Violation> {
        let Some(words) = words else { return Ok(Vec::new()) };
        if !(1..=WORDS_MAX).contains(&words.len()) {
            let rule = format!("left out, or 1 to {WORDS_MAX} words");
            return Err(broken(self.key(key), &rule, words.len()));
        }
        match words.iter().find(|word| word.trim().is_empty()) {
            Some(_) => Err(broken(self.key(key), "words that are not empty", "\"\"")),
            None => Ok(words),
        }
    }

    fn size(&self, key: &str, text: Option<String>) -> Result<Option<u64>, Violation> {
        let Some(text) = text else { return Ok(None) };
        let bytes = parse_size(&text);
        bytes.map(Some).ok_or_else(|| broken(self.key(key), "a size such as 64KiB", text))
    }

    fn route_targets(&self, raw: Vec<RawTarget>) -> Result<Vec<RouteTarget>, Violation> {
        if !(1..=ROUTES_MAX).contains(&raw.len()) {
            let rule = format!("1 to {ROUTES_MAX} tables `[[routes.targets]]`");
            return Err(broken(self.key("targets"), &rule, raw.len()));
        }
        let mut targets: Vec<RouteTarget> = Vec::with_capacity(raw.len());
        for (index, raw) in raw.into_iter().enumerate() {
            let key = |key: &str| self.key(&format!("targets[{index}].{key}"));
            let name = raw.target.unwrap_or_default();
            if !self.targets.contains(&name) {
                return Err(broken(key("target"), &self.served(), format!("{name:?}")));
            }
            if targets.iter().any(|other| other.name == name) {
                return Err(broken(key("target"), "named once in a route", format!("{name:?}")));
            }
            let weight = raw.weight.unwrap_or(0);
            let weight = u32::try_from(weight).ok().filter(|weight| *weight <= WHOLE);
            let weight = weight.ok_or_else(|| {
                broken(key("weight"), "from 0 to 100", raw.weight.unwrap_or_default())
            })?;
            let who = |text: &String| {
                let rule = "some of user:ID, group:ID, realm:REALM, flag:FLAG";
                Who::parse(text).ok_or_else(|| broken(key("except"), rule, format!("{text:?}")))
            };
            let except = raw.except.unwrap_or_default();
            let except = except.iter().map(who).collect::<Result<_, _>>()?;
            targets.push(RouteTarget { name, weight, except });
        }
        let sum: u32 = targets.iter().map(|target| target.weight).sum();
        if sum != 0 && sum != WHOLE {
            let rule = "targets whose weights sum to 100, or to 0 where only their order counts";
            return Err(broken(self.key("targets"), rule, sum));
        }
        Ok(targets)
    }

    fn pins(
        &self,
        texts: &[String],
        targets: &[RouteTarget],
    ) -> Result<Vec<(Who, String)>, Violation> {
        let pin = |text: &String| {
            let (who, target) = text.split_once('=')?;
            let who = Who::parse(who.trim())?;
            let target = target.trim();
            let is_there = targets.iter().any(|other| other.name == target);
            is_there.then(|| (who, target.to_owned()))
        };
        let refuse = |text: &String| {
            let rule = "some of user:ID=TARGET, group:ID=TARGET, realm:REALM=TARGET, flag:FLAG=TARGET, with a target of the route";
            broken(self.key("pins"), rule, format!("{text:?}"))
        };
        texts.iter().map(|text| pin(text).ok_or_else(|| refuse(text))).collect()
    }

    fn shadow(&self, text: &str) -> Result<ShadowConfig, Violation> {
        let parse = || {
            let (target, percent) = text.rsplit_once('=')?;
            let percent: f64 = percent.trim().strip_suffix('%')?.parse().ok()?;
            let is_percent = percent > 0.0 && percent <= 100.0;
            let target = target.trim().to_owned();
            (is_percent && self.targets.contains(&target))
                .then_some(ShadowConfig { target, percent })
        };
        let rule = format!("TARGET=N% with N above 0 and at most 100 and {}", self.served());
        parse().ok_or_else(|| broken(self.key("shadow"), &rule, format!("{text:?}")))
    }

    fn served(&self) -> String {
        let names: Vec<String> = self.targets.iter().map(|name| format!("`{name}`")).collect();
        format!("a name that is served, which are {}", names.join(", "))
    }
}

fn broken(key: impl Into<String>, rule: &str, got: impl std::fmt::Display) -> Violation {
    Violation { key: key.into(), rule: rule.to_owned(), got: got.to_string() }
}

/// Returns routes as they are typed.
pub(in crate::config) fn raw_routes(routes: &[RouteConfig]) -> Vec<RawRoute> {
    routes.iter().map(raw_route).collect()
}

fn raw_route(route: &RouteConfig) -> RawRoute {
    let RouteConfig { name, when, targets, pins, shadow } = route;
    let words = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let tasks: Vec<String> = when.tasks.iter().map(|task| task.as_label().to_owned()).collect();
    let pins: Vec<String> = pins.iter().map(|(who, target)| format!("{who}={target}")).collect();
    let target = |target: &RouteTarget| RawTarget {
        target: Some(target.name.clone()),
        weight: Some(target.weight.into()),
        except: (!target.except.is_empty())
            .then(|| target.except.iter().map(ToString::to_string).collect()),
    };
    RawRoute {
        name: Some(name.clone()),
        tasks: words(&tasks),
        models: words(&when.models),
        languages: words(&when.languages),
        users: words(&when.users),
        groups: words(&when.groups),
        realms: words(&when.realms),
        flags: words(&when.flags),
        min_prompt_size: when.prompt_bytes_min.map(format_size),
        max_prompt_size: when.prompt_bytes_max.map(format_size),
        pins: words(&pins),
        shadow: shadow.as_ref().map(|shadow| format!("{}={}%", shadow.target, shadow.percent)),
        targets: Some(targets.iter().map(target).collect()),
    }
}
