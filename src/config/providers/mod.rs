//! Services elsewhere that complete: the tables of `[[providers]]`, their secrets and certificates.
//!
//! What needs a protocol's or a family's rules is checked where those are known; here is what holds for all. A secret
//! comes from a file or a variable only, and is shown nowhere.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::config::{
    Environment, ModelSource, Secret, ServedConfig, Violation,
    resolve::{broken, expand_home, integer, said, time, word},
};

mod print;
mod raw;

pub(super) use print::print;
pub use raw::{RawHeader, RawProvider, keys};

/// The key of the tables.
pub(super) const PROVIDERS: &str = "providers";

/// Longest name: it stands in logs and labels.
const NAME_BYTES_MAX: usize = 64;
/// Longest file of a secret or of certificates.
const FILE_BYTES_MAX: usize = 1 << 20;
/// Most further headers of a request.
const HEADERS_MAX: usize = 32;
/// Code has three to four bytes a token; three leaves room for text that has fewer.
const BYTES_PER_TOKEN: f64 = 3.0;
/// As many as a small service takes at once, and far more than one editor asks for.
const MAX_CONCURRENCY: i64 = 64;
/// Far longer than a connection over the world takes.
const TIMEOUT_CONNECT: &str = "5s";
/// Where Google's own libraries look for the metadata server, and the variable that moves it.
const METADATA_HOST: (&str, &str) = ("GCE_METADATA_HOST", "metadata.google.internal");
/// Headers whose values are secrets: they come from files and variables only.
const SECRET_HEADERS: &[&str] =
    &["authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"];
/// Headers that the client writes itself.
const OWN_HEADERS: &[&str] =
    &["host", "content-length", "content-type", "transfer-encoding", "connection", "accept"];

/// How a gap is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FimForm {
    /// As the text that the model's family was trained on, with its sentinels.
    Template,
    /// As two texts, which the service puts together.
    Suffix,
    /// In words, as one asks who knows conversations.
    Instruction,
    /// Not at all.
    None,
}

impl FimForm {
    /// All forms.
    pub const ALL: [Self; 4] = [Self::Template, Self::Suffix, Self::Instruction, Self::None];

    /// Returns the word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Suffix => "suffix",
            Self::Instruction => "instruction",
            Self::None => "none",
        }
    }
}

/// A secret and where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretConfig {
    /// Where it was.
    pub source: SecretSource,
    /// What it is.
    pub value: Secret,
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In a variable.
    Variable(String),
}

/// A file and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileConfig {
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub text: Secret,
}

/// The value of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderConfig {
    /// Written in the settings.
    Text(String),
    /// From elsewhere, and shown nowhere.
    Secret(SecretConfig),
}

/// The way to a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyChoice {
    /// What the environment names.
    Environment,
    /// Straight.
    None,
    /// Over this address.
    Address(String),
}

/// A service elsewhere that completes.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderConfig {
    /// The number of its table, for messages.
    pub table: usize,
    /// What it is called, in logs and messages too.
    pub name: String,
    /// What it speaks.
    pub protocol: String,
    /// Where it is, without a slash at the end; `None` where the protocol knows.
    pub url: Option<String>,
    /// What the model is called there.
    pub model: String,
    /// Name that clients ask for.
    pub served_as: String,
    /// FIM family of the model.
    pub family: Option<String>,
    /// How a gap is asked for; `None` as the protocol prefers.
    pub fim: Option<FimForm>,
    /// Tokens of prompt and answer together; `None` as the family has it.
    pub context_tokens_max: Option<NonZeroU32>,
    /// Bytes of a token, for the length of prompts.
    pub bytes_per_token: f64,
    /// Says who asks.
    pub api_key: Option<SecretConfig>,
    /// A Google service account, in JSON.
    pub credentials: Option<FileConfig>,
    /// Where Google's metadata server is.
    pub metadata_host: String,
    /// Google's region.
    pub region: Option<String>,
    /// Google's project.
    pub project: Option<String>,
    /// Further headers of each request, by their names in small letters.
    pub headers: BTreeMap<String, HeaderConfig>,
    /// The way there.
    pub proxy: ProxyChoice,
    /// Certificates that are trusted, in place of the system's.
    pub ca: Option<FileConfig>,
    /// The certificate that is shown, and its key.
    pub client_identity: Option<(FileConfig, FileConfig)>,
    /// Longest time for a connection.
    pub timeout_connect: Duration,
    /// Calls at once; one more is refused.
    pub num_calls_max: u32,
    /// Whether answers are asked for piece by piece.
    pub is_streaming: bool,
}

impl ProviderConfig {
    /// Returns the name of one of its keys, for messages.
    pub fn key(&self, leaf: &str) -> String {
        key_in(self.table, leaf)
    }
}

/// Returns the name of a key in a table.
fn key_in(table: usize, leaf: &str) -> String {
    format!("{PROVIDERS}[{table}].{leaf}")
}

/// Checks and completes the tables, and reads the files that they name. No name may be one of `models`.
///
/// # Errors
/// The first rule that is broken, by the key of the table that broke it.
pub(super) fn resolve<'m>(
    tables: Option<Vec<RawProvider>>,
    models: impl IntoIterator<Item = &'m ServedConfig>,
    environment: &Environment,
) -> Result<Vec<ProviderConfig>, Violation> {
    let mut served: HashMap<String, String> = HashMap::new();
    let is_there = |served: &&ServedConfig| served.model.source != ModelSource::None;
    for ServedConfig { model, .. } in models.into_iter().filter(is_there) {
        let adapters = model.adapters.iter().map(|adapter| &adapter.name);
        for name in [&model.served_name].into_iter().chain(&model.aliases).chain(adapters) {
            served.insert(name.clone(), "a model".to_owned());
        }
    }
    let mut names = HashMap::new();
    let mut providers = Vec::new();
    for (index, table) in tables.unwrap_or_default().into_iter().enumerate() {
        let at =
            |violation: Violation| Violation { key: key_in(index, &violation.key), ..violation };
        let provider = provider(index, table, environment).map_err(at)?;
        let own =
            [("name", &provider.name, &mut names), ("served_as", &provider.served_as, &mut served)];
        for (leaf, name, known) in own {
            if let Some(other) = known.insert(name.clone(), format!("`{}`", key_in(index, leaf))) {
                let rule = format!("a name of its own, other than that of {other}");
                let key = key_in(index, leaf);
                return Err(Violation { key, rule, got: format!("{name:?}") });
            }
        }
        providers.push(provider);
    }
    Ok(providers)
}

fn provider(
    table: usize,
    raw: RawProvider,
    environment: &Environment,
) -> Result<ProviderConfig, Violation> {
    let name = said("name", raw.name)?;
    if !is_name(&name) {
        let rule = format!("1 to {NAME_BYTES_MAX} letters, digits, `-`, `_`, `.`");
        return Err(broken("name", &rule, format!("{name:?}")));
    }
    let model = name_of_model("model", said("model", raw.model)?)?;
    let served_as = name_of_model("served_as", raw.served_as.unwrap_or_else(|| name.clone()))?;
    let forms = FimForm::ALL.map(|form| (form.name(), form));
    let fim = raw.fim.map(|fim| word("fim", Some(fim), &forms)).transpose()?;
    let context = raw.max_context_tokens;
    let context = context.map(|n| integer("max_context_tokens", Some(n), 64..=16_777_216));
    let file =
        |key, path: Option<String>| path.map(|path| file(key, &path, environment)).transpose();
    let ca = file("ca_file", raw.ca_file)?;
    let identity = (
        file("client_cert_file", raw.client_cert_file)?,
        file("client_key_file", raw.client_key_file)?,
    );
    Ok(ProviderConfig {
        table,
        protocol: said("protocol", raw.protocol)?,
        url: raw.url.map(|url| address("url", &url)).transpose()?,
        model,
        served_as,
        family: raw.family,
        fim,
        context_tokens_max: context.transpose()?.and_then(NonZeroU32::new),
        bytes_per_token: bytes_per_token(raw.bytes_per_token)?,
        api_key: api_key(raw.api_key_file, raw.api_key_env, environment)?,
        credentials: file("credentials_file", raw.credentials_file)?,
        metadata_host: environment.get(METADATA_HOST.0).unwrap_or(METADATA_HOST.1).to_owned(),
        region: raw.region.map(|region| part_of_path("region", region)).transpose()?,
        project: raw.project.map(|project| part_of_path("project", project)).transpose()?,
        headers: headers(raw.headers.unwrap_or_default(), environment)?,
        proxy: proxy(raw.proxy.as_deref())?,
        ca: ca.map(certificates).transpose()?,
        client_identity: client_identity(identity)?,
        timeout_connect: time(
            "timeout_connect",
            Some(raw.timeout_connect.unwrap_or_else(|| TIMEOUT_CONNECT.to_owned())),
            Duration::from_millis(10)..=Duration::from_mins(5),
        )?,
        num_calls_max: integer(
            "max_concurrency",
            Some(raw.max_concurrency.unwrap_or(MAX_CONCURRENCY)),
            1..=4096,
        )?,
        is_streaming: raw.streaming.unwrap_or(true),
        name,
    })
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn name_of_model(key: &'static str, name: String) -> Result<String, Violation> {
    let is_printable = !name.contains(char::is_control) && name.trim() == name;
    if (1..=256).contains(&name.len()) && is_printable {
        return Ok(name);
    }
    let rule = "1 to 256 printable bytes, no blank first or last";
    Err(broken(key, rule, format!("{name:?}")))
}

/// What becomes part of a path, or of a host's name.
fn part_of_path(key: &'static str, text: String) -> Result<String, Violation> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if (1..=128).contains(&text.len()) && text.chars().all(is_part) && !text.starts_with('.') {
        return Ok(text);
    }
    Err(broken(key, "letters, digits, `-`, `_`, `.`, `:`", format!("{text:?}")))
}

/// An address has no password, which would be shown with it, and no query, which the path would go behind.
fn address(key: &'static str, url: &str) -> Result<String, Violation> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let is_plain = url.chars().all(|c| c.is_ascii_graphic() && !"?#@,\\".contains(c));
    if host.is_empty() || host.starts_with(':') || !is_plain {
        let rule = "an http or https address such as https://api.example.com, without a password or a query";
        // What may hold a password is not repeated.
        let got = if url.contains('@') { "one with an `@`".to_owned() } else { format!("{url:?}") };
        return Err(broken(key, rule, got));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

fn proxy(said: Option<&str>) -> Result<ProxyChoice, Violation> {
    match said {
        None | Some("environment") => Ok(ProxyChoice::Environment),
        Some("none") => Ok(ProxyChoice::None),
        Some(url) => address("proxy", url).map(ProxyChoice::Address).map_err(|violation| {
            Violation { rule: format!("environment, none, or {}", violation.rule), ..violation }
        }),
    }
}

fn bytes_per_token(said: Option<f64>) -> Result<f64, Violation> {
    let value = said.unwrap_or(BYTES_PER_TOKEN);
    if (1.0..=8.0).contains(&value) {
        return Ok(value);
    }
    Err(broken("bytes_per_token", "between 1 and 8", value))
}

fn api_key(
    path: Option<String>,
    variable: Option<String>,
    environment: &Environment,
) -> Result<Option<SecretConfig>, Violation> {
    match (path, variable) {
        (Some(_), Some(_)) => {
            Err(broken("api_key_env", "left out where `api_key_file` is said", "both"))
        }
        (Some(path), None) => secret_of_file("api_key_file", &path, environment).map(Some),
        (None, Some(variable)) => {
            secret_of_variable("api_key_env", variable, environment).map(Some)
        }
        (None, None) => Ok(None),
    }
}

fn secret_of_file(
    key: &'static str,
    path: &str,
    environment: &Environment,
) -> Result<SecretConfig, Violation> {
    let FileConfig { path, text } = file(key, path, environment)?;
    let value = header_value(text.reveal()).ok_or_else(|| {
        let rule = "a file that holds one line of printable characters";
        broken(key, rule, format!("{}, which does not", path.display()))
    })?;
    Ok(SecretConfig { source: SecretSource::File(path), value })
}

fn secret_of_variable(
    key: &'static str,
    variable: String,
    environment: &Environment,
) -> Result<SecretConfig, Violation> {
    let text = environment.get(&variable).ok_or_else(|| {
        broken(key, "a variable that is set", format!("{variable:?}, which is not"))
    })?;
    let value = header_value(text).ok_or_else(|| {
        let rule = "a variable that holds one line of printable characters";
        broken(key, rule, format!("{variable:?}, which does not"))
    })?;
    Ok(SecretConfig { source: SecretSource::Variable(variable), value })
}

/// What no header can hold would fail each request with a message about headers.
fn header_value(text: &str) -> Option<Secret> {
    let text = text.trim();
    let is_value = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    is_value.then(|| Secret::from(text))
}

fn headers(
    raw: BTreeMap<String, RawHeader>,
    environment: &Environment,
) -> Result<BTreeMap<String, HeaderConfig>, Violation> {
    if raw.len() > HEADERS_MAX {
        return Err(broken("headers", &format!("at most {HEADERS_MAX}"), raw.len()));
    }
    let mut headers = BTreeMap::new();
    for (name, value) in raw {
        let small = name.to_ascii_lowercase();
        let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if small.is_empty() || !small.chars().all(is_word) || OWN_HEADERS.contains(&small.as_str())
        {
            let rule = "names of headers that the client does not write itself";
            return Err(broken("headers", rule, format!("{name:?}")));
        }
        let is_secret = SECRET_HEADERS.contains(&small.as_str());
        let value = match value {
            RawHeader::Text(_) if is_secret => {
                let rule = "values, and for what is a secret { file = \"FILE\" } or { env = \"VARIABLE\" }";
                return Err(broken("headers", rule, format!("a text for {name:?}")));
            }
            RawHeader::Text(text) => {
                let value = header_value(&text).ok_or_else(|| {
                    broken(
                        "headers",
                        "values of printable characters",
                        format!("another for {name:?}"),
                    )
                })?;
                HeaderConfig::Text(value.reveal().to_owned())
            }
            RawHeader::File { file } => {
                HeaderConfig::Secret(secret_of_file("headers", &file, environment)?)
            }
            RawHeader::Env { env } => {
                HeaderConfig::Secret(secret_of_variable("headers", env, environment)?)
            }
        };
        if headers.insert(small, value).is_some() {
            return Err(broken(
                "headers",
                "each once, in small letters or not",
                format!("{name:?}"),
            ));
        }
    }
    Ok(headers)
}

fn file(key: &'static str, path: &str, environment: &Environment) -> Result<FileConfig, Violation> {
    if path.is_empty() {
        return Err(broken(key, "a file", "nothing"));
    }
    let path = expand_home(path, environment);
    let text = fs::read_to_string(&path).map_err(|error| {
        broken(key, "a file that can be read", format!("{}: {error}", path.display()))
    })?;
    if text.len() > FILE_BYTES_MAX {
        let rule = format!("a file of at most {FILE_BYTES_MAX} bytes");
        return Err(broken(key, &rule, text.len()));
    }
    Ok(FileConfig { path, text: Secret::from(text.as_str()) })
}

/// Without one certificate nobody could be trusted.
fn certificates(file: FileConfig) -> Result<FileConfig, Violation> {
    check_certificates("ca_file", &file)?;
    Ok(file)
}

fn check_certificates(key: &'static str, file: &FileConfig) -> Result<(), Violation> {
    let all = CertificateDer::pem_slice_iter(file.text.reveal().as_bytes());
    let all: Result<Vec<_>, _> = all.collect();
    if all.is_ok_and(|all| !all.is_empty()) {
        return Ok(());
    }
    let rule = "a file of certificates in PEM";
    Err(broken(key, rule, format!("{}, which is none", file.path.display())))
}

fn client_identity(
    files: (Option<FileConfig>, Option<FileConfig>),
) -> Result<Option<(FileConfig, FileConfig)>, Violation> {
    match files {
        (None, None) => Ok(None),
        (Some(_), None) => {
            Err(broken("client_key_file", "said with `client_cert_file`", "nothing"))
        }
        (None, Some(_)) => {
            Err(broken("client_cert_file", "said with `client_key_file`", "nothing"))
        }
        (Some(certificate), Some(key)) => {
            check_certificates("client_cert_file", &certificate)?;
            if PrivateKeyDer::from_pem_slice(key.text.reveal().as_bytes()).is_err() {
                let rule = "a file of a private key in PEM";
                let got = format!("{}, which is none", key.path.display());
                return Err(broken("client_key_file", rule, got));
            }
            Ok(Some((certificate, key)))
        }
    }
}
