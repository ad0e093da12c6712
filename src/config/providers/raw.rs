//! The settings of hosted providers exactly as somebody typed them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A table of `[[providers]]`: a service elsewhere that completes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawProvider {
    /// What it is called, in logs and messages too.
    pub name: Option<String>,
    /// What it speaks.
    pub protocol: Option<String>,
    /// Where it is, without the path of the protocol.
    pub url: Option<String>,
    /// What the model is called there.
    pub model: Option<String>,
    /// Name that clients ask for.
    pub served_as: Option<String>,
    /// FIM family of the model.
    pub family: Option<String>,
    /// How a gap is asked for.
    pub fim: Option<String>,
    /// Tokens of prompt and answer together.
    pub max_context_tokens: Option<i64>,
    /// Bytes of a token, for the length of prompts.
    pub bytes_per_token: Option<f64>,
    /// File that holds the key.
    pub api_key_file: Option<String>,
    /// Variable that holds the key.
    pub api_key_env: Option<String>,
    /// File of a Google service account.
    pub credentials_file: Option<String>,
    /// Google's region.
    pub region: Option<String>,
    /// Google's project.
    pub project: Option<String>,
    /// Further headers of each request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, RawHeader>>,
    /// The way there: `environment`, `none`, or an address.
    pub proxy: Option<String>,
    /// File of the certificates that are trusted.
    pub ca_file: Option<String>,
    /// File of the certificate that is shown.
    pub client_cert_file: Option<String>,
    /// File of its key.
    pub client_key_file: Option<String>,
    /// Longest time for a connection.
    pub timeout_connect: Option<String>,
    /// Calls at once.
    pub max_concurrency: Option<i64>,
    /// Whether answers are asked for piece by piece.
    pub streaming: Option<bool>,
}

/// A header's value: as it stands here, or where it is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a text, or a table such as { file = \"FILE\" } or { env = \"VARIABLE\" }"
)]
pub enum RawHeader {
    /// The value.
    Text(String),
    /// A file that holds it.
    File {
        /// The file.
        file: String,
    },
    /// A variable that holds it.
    Env {
        /// The variable.
        env: String,
    },
}

/// Returns the keys that a table of `[[providers]]` may have.
pub fn keys() -> Vec<String> {
    // Every field is said, so that every key is written; what it says is of no matter.
    let all = RawProvider {
        max_context_tokens: Some(0),
        bytes_per_token: Some(0.0),
        headers: Some(BTreeMap::new()),
        max_concurrency: Some(0),
        streaming: Some(false),
        ..RawProvider::of_texts("")
    };
    toml::Table::try_from(all).unwrap_or_default().into_iter().map(|(key, _)| key).collect()
}

impl RawProvider {
    /// Returns a table whose every text is `text`.
    fn of_texts(text: &str) -> Self {
        let text = || Some(text.to_owned());
        Self {
            name: text(),
            protocol: text(),
            url: text(),
            model: text(),
            served_as: text(),
            family: text(),
            fim: text(),
            api_key_file: text(),
            api_key_env: text(),
            credentials_file: text(),
            region: text(),
            project: text(),
            proxy: text(),
            ca_file: text(),
            client_cert_file: text(),
            client_key_file: text(),
            timeout_connect: text(),
            ..Self::default()
        }
    }
}
