//! Secrets in source text, masked before a model reads them: it would learn to write them where they do not belong.
//!
//! A rule is a row. What it finds is replaced by [`MASK`]; names and quotes around it stay.

use std::{borrow::Cow, sync::OnceLock};

use regex::{Captures, Regex};

/// What stands in the place of a secret.
pub const MASK: &str = "********";

/// The part of a match that is the secret.
const GROUP: &str = "s";

/// What secrets look like: the published prefixes and lengths of their makers.
const RULES: &[(&str, &str)] = &[
    ("aws access key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    ("gitlab token", r"\bgl(?:pat|oas|dt|rt|cbt|ptt|ft|soat|agent)-[0-9A-Za-z_\-.]{20,}"),
    ("github token", r"\b(?:gh[pousr]_[0-9A-Za-z]{36,}|github_pat_[0-9A-Za-z_]{22,})"),
    ("slack token", r"\bxox[abeoprs]-[0-9A-Za-z-]{10,}"),
    ("google api key", r"\bAIza[0-9A-Za-z_\-]{35}"),
    ("stripe key", r"\b[rs]k_live_[0-9A-Za-z]{16,}"),
    ("openai or anthropic key", r"\bsk-(?:proj-|ant-)?[0-9A-Za-z_\-]{20,}"),
    ("hugging face token", r"\bhf_[0-9A-Za-z]{30,}"),
    ("npm token", r"\bnpm_[0-9A-Za-z]{36}"),
    ("json web token", r"\beyJ[0-9A-Za-z_\-]{10,}\.eyJ[0-9A-Za-z_\-]{10,}\.[0-9A-Za-z_\-]{10,}"),
    (
        "private key",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?P<s>[0-9A-Za-z+/=\s\\]{40,}?)-----END [A-Z ]*PRIVATE KEY-----",
    ),
    (
        "password in an address",
        r"\b[a-z][a-z0-9+.\-]{1,20}://[^\s:/@]{1,80}:(?P<s>[^\s:/@]{3,80})@",
    ),
    (
        "value of a telling name",
        r#"(?i)(?:passw(?:or)?d|secret|api_?key|access_?key|auth_?token|access_?token|private_?key)["']?\s{0,4}(?:=>|:=|=|:)\s{0,4}["'](?P<s>[^"'\s$\{\}<>]{8,200})["']"#,
    ),
];

/// Returns a text without its secrets.
pub fn mask(text: &str) -> Cow<'_, str> {
    static RULE: OnceLock<Option<Vec<Regex>>> = OnceLock::new();
    let compile = || RULES.iter().map(|(_, rule)| Regex::new(rule).ok()).collect();
    let Some(rules) = RULE.get_or_init(compile) else { return Cow::Borrowed(text) };
    let mut masked = Cow::Borrowed(text);
    for rule in rules {
        if let Cow::Owned(replaced) = rule.replace_all(&masked, replacement) {
            masked = Cow::Owned(replaced);
        }
    }
    masked
}

fn replacement(found: &Captures<'_>) -> String {
    let Some(whole) = found.get(0) else { return String::new() };
    let secret = found.name(GROUP).unwrap_or(whole);
    let text = whole.as_str();
    let (start, end) = (secret.start() - whole.start(), secret.end() - whole.start());
    format!("{}{MASK}{}", &text[..start], &text[end..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_rule_is_one() {
        for (name, rule) in RULES {
            assert!(Regex::new(rule).is_ok(), "{name}");
        }
    }

    #[test]
    fn secrets_are_masked_and_what_is_around_them_stays() {
        let long = "a1B2".repeat(12);
        let rows = [
            (format!("key = AKIA{}", "Z2".repeat(8)), "key = ********".to_owned()),
            (format!("t: glpat-{}", &long[..20]), "t: ********".to_owned()),
            (format!("ghp_{}\n", &long[..36]), "********\n".to_owned()),
            (
                format!("curl -H 'Bearer sk-ant-{}'", &long[..30]),
                "curl -H 'Bearer ********'".to_owned(),
            ),
            (format!("hf_{}", &long[..34]), "********".to_owned()),
            (format!("x = eyJ{0}.eyJ{0}.{0};", &long[..20]), "x = ********;".to_owned()),
            (
                "postgres://app:hunter22@db/shop".to_owned(),
                "postgres://app:********@db/shop".to_owned(),
            ),
            ("PASSWORD = \"correct-horse\"".to_owned(), "PASSWORD = \"********\"".to_owned()),
            ("'apiKey': 'abcdefgh12'".to_owned(), "'apiKey': '********'".to_owned()),
            (
                format!("-----BEGIN RSA PRIVATE KEY-----\n{long}\n-----END RSA PRIVATE KEY-----"),
                "-----BEGIN RSA PRIVATE KEY-----********-----END RSA PRIVATE KEY-----".to_owned(),
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(mask(&text), expected);
        }
    }

    #[test]
    fn code_about_secrets_stays() {
        let rows = [
            "password = os.environ[\"PASSWORD\"]",
            "def check_password(password: str) -> bool:",
            "secret: ${{ secrets.TOKEN }}",
            "let token = tokenizer.next();",
            "https://example.com:8080/a@b",
            "api_key = \"<your-key>\"",
            "sk-learn, AKIAS, xoxo",
        ];
        for text in rows {
            assert!(matches!(mask(text), Cow::Borrowed(_)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn masking_twice_is_masking_once(text in "(password=|token: |sk-|\"|'|AKIA|[a-zA-Z0-9]{0,30}|\n| ){0,12}") {
            let once = mask(&text).into_owned();
            prop_assert_eq!(mask(&once).into_owned(), once);
        }
    }
}
