//! API keys as they stand in a file or a variable: a name, the hash of the key, and what it may.
//!
//! A line is `NAME:SHA256`, then what is otherwise than usual: `scopes=complete_code requests_per_minute=60`.
//! The key itself stands nowhere.

use std::num::NonZeroU32;

/// What a key may that says nothing of it.
pub const API_KEY_SCOPES: [&str; 2] = ["complete_code", "generate_code"];

/// The unit primitives that are asked for here. There may be others, of GitLab's or of an operator's prompts.
const CHECKED_SCOPES: [&str; 4] =
    ["complete_code", "generate_code", "ai_gateway_model_provider_proxy", "code_suggestions"];

/// A word that differs in so few letters from one of these is a slip of the hand.
const MISSPELT_LETTERS_MAX: usize = 2;

/// Longest name of a key.
const NAME_BYTES_MAX: usize = 64;

/// A key that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyConfig {
    /// What it is called, in logs too.
    pub name: String,
    /// SHA-256 of the key.
    pub digest: [u8; 32],
    /// The unit primitives that it may use.
    pub scopes: Vec<String>,
    /// Its own limit; `None` is that of `auth.requests_per_minute`.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Its own limit; `None` is that of `auth.concurrent_requests`.
    pub concurrent_requests: Option<NonZeroU32>,
}

/// Returns whether a key may be called so: what a log line or a shell needs no quotes for.
pub fn is_api_key_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte))
}

/// Reads lines of keys; empty ones and those that begin with `#` say nothing.
///
/// # Errors
/// The number of the first line that is none, and what is wrong with it.
pub(super) fn parse<'a>(
    lines: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<ApiKeyConfig>, String> {
    let mut keys: Vec<ApiKeyConfig> = Vec::new();
    for (index, line) in lines.into_iter().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let key = parse_line(line).map_err(|what| format!("line {number}: {what}"))?;
        if keys.iter().any(|known| known.name == key.name) {
            return Err(format!("line {number}: a second key called {}", key.name));
        }
        keys.push(key);
    }
    Ok(keys)
}

/// What is wrong is said without the line: somebody may have pasted the key instead of its hash.
fn parse_line(line: &str) -> Result<ApiKeyConfig, String> {
    let mut words = line.split_whitespace();
    let (name, hash) =
        words.next().and_then(|word| word.split_once(':')).ok_or("no NAME:SHA256")?;
    if !is_api_key_name(name) {
        return Err(format!("a name is 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_`, `.`, `@`"));
    }
    let digest = digest(hash).ok_or_else(|| {
        format!("the hash of {name} is no SHA-256 in 64 hexadecimal digits; `lacuna keys new` prints the line")
    })?;
    let mut key = ApiKeyConfig {
        name: name.to_owned(),
        digest,
        scopes: API_KEY_SCOPES.map(str::to_owned).to_vec(),
        requests_per_minute: None,
        concurrent_requests: None,
    };
    for word in words {
        let limit = |text: &str| {
            text.parse().map(Some).map_err(|_| format!("a limit of {name} is no number above 0"))
        };
        match word.split_once('=') {
            Some(("scopes", scopes)) => {
                key.scopes = scopes.split(',').map(str::to_owned).collect();
                if !key.scopes.iter().all(|scope| is_scope(scope)) {
                    return Err(format!("a scope of {name} is no word such as complete_code"));
                }
                for scope in &key.scopes {
                    if let Some(meant) = misspelt_scope(scope) {
                        return Err(format!(
                            "a scope of {name} is {scope}; the nearest is {meant}"
                        ));
                    }
                }
            }
            Some(("requests_per_minute", text)) => key.requests_per_minute = limit(text)?,
            Some(("concurrent_requests", text)) => key.concurrent_requests = limit(text)?,
            _ => {
                let known = "scopes=, requests_per_minute= and concurrent_requests=";
                return Err(format!("of {name} there may be {known}"));
            }
        }
    }
    Ok(key)
}

/// Returns whether a text can be a scope, in GitLab's words a unit primitive.
pub fn is_scope(scope: &str) -> bool {
    !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Returns the scope that is meant, where a word is nearly one and is none.
pub fn misspelt_scope(scope: &str) -> Option<&'static str> {
    let distance = |known: &&str| strsim::osa_distance(known, scope);
    let nearest = CHECKED_SCOPES.into_iter().min_by_key(distance)?;
    (1..=MISSPELT_LETTERS_MAX).contains(&distance(&nearest)).then_some(nearest)
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    // A sign before a digit would be taken for part of the number.
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_names_hashes_and_what_is_otherwise() {
        let hash = "0f".repeat(32);
        let text = format!(
            "# editors\n\nada:{hash}\n grace@hq.example:{hash}  scopes=complete_code requests_per_minute=60 concurrent_requests=2\n"
        );
        let keys = parse(text.lines()).unwrap();
        let [ada, grace] = keys.as_slice() else { panic!("{keys:?}") };
        assert_eq!((ada.name.as_str(), ada.digest), ("ada", [15; 32]));
        assert_eq!(ada.scopes, API_KEY_SCOPES);
        assert_eq!((ada.requests_per_minute, ada.concurrent_requests), (None, None));
        assert_eq!(grace.name, "grace@hq.example");
        assert_eq!(grace.scopes, ["complete_code"]);
        assert_eq!(grace.requests_per_minute, NonZeroU32::new(60));
        assert_eq!(grace.concurrent_requests, NonZeroU32::new(2));
    }

    #[test]
    fn what_is_wrong_is_told_without_the_line() {
        let hash = "0f".repeat(32);
        let rows = [
            ("lacuna-s3cret".to_owned(), "line 1: no NAME:SHA256"),
            ("ada:lacuna-s3cret".to_owned(), "line 1: the hash of ada is no SHA-256"),
            (format!("ada:+{}", &hash[1..]), "line 1: the hash of ada is no SHA-256"),
            (format!("a b:{hash}"), "line 1: no NAME:SHA256"),
            (format!("ä:{hash}"), "line 1: a name is 1 to 64"),
            (format!("\nada:{hash} limit=1"), "line 2: of ada there may be scopes="),
            (format!("ada:{hash} requests_per_minute=0"), "line 1: a limit of ada is no number"),
            (format!("ada:{hash} scopes=complete-code"), "line 1: a scope of ada is no word"),
            (
                format!("ada:{hash} scopes=complete_code,generate_cod"),
                "line 1: a scope of ada is generate_cod; the nearest is generate_code",
            ),
            (format!("ada:{hash} scopes=complete_codee"), "line 1: a scope of ada is complete_cod"),
            (format!("ada:{hash}\nada:{hash}"), "line 2: a second key called ada"),
        ];
        for (text, expected) in rows {
            let error = parse(text.lines()).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
