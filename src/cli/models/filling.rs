//! What `lacuna models inspect` says of filling gaps: what serving the model with these settings would do.

use std::fmt;

use serde::Serialize;

use crate::{
    cli::fim,
    config::Config,
    prompt::{
        Family, FimTemplate, Origin,
        family::Training,
        template::{GapIds, Segment},
    },
    tokenizer::Tokenizer,
};

/// Whether gaps are filled, and how.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub(super) enum Filling {
    /// In this form.
    Form {
        /// None where the settings alone make the form.
        family: Option<&'static str>,
        /// The control tokens with what stands between them.
        form: String,
        /// Whether other files are shown.
        has_repo_form: bool,
    },
    /// The family was not trained to.
    Untrained { family: &'static str, reason: &'static str },
    /// No family is known, or none is wanted.
    Unknown,
    /// The settings do not go with the model: it would not be served.
    Refused { reason: String },
}

impl Filling {
    /// Returns what serving would do.
    pub(super) fn of(config: &Config, architecture: &str, tokenizer: &Tokenizer) -> Self {
        let chosen = fim::choose(config, architecture, tokenizer);
        let resolved = chosen.and_then(|family| {
            let template = fim::template_of(config, family, tokenizer)?;
            Ok((family, template))
        });
        match resolved {
            Err(error) => Self::Refused { reason: format!("{error:#}") },
            Ok((family, Some(template))) => Self::Form {
                family: family.filter(|family| family.fim().is_some()).map(|family| family.name),
                form: form(&template, tokenizer),
                has_repo_form: template.files().is_some(),
            },
            Ok((Some(Family { name, training: Training::Without(reason), .. }), None)) => {
                Self::Untrained { family: name, reason }
            }
            Ok((_, None)) => Self::Unknown,
        }
    }
}

impl fmt::Display for Filling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form { family, form, has_repo_form } => {
                let family = family.unwrap_or("by the settings");
                let files = if *has_repo_form { "with other files" } else { "one file alone" };
                write!(f, "{family}, {files}: {form}")
            }
            Self::Untrained { family, reason } => {
                write!(f, "{family} was not trained to, texts can only be continued: {reason}")
            }
            Self::Unknown => f.write_str(
                "no form is known, texts can only be continued; see model.family and model.fim_prefix",
            ),
            Self::Refused { reason } => write!(f, "it would not be served: {reason}"),
        }
    }
}

/// Writes a prompt of one file down, as it would be sent.
fn form(template: &FimTemplate, tokenizer: &Tokenizer) -> String {
    let ids = GapIds { prefix: &[0], suffix: &[0], typed: &[] };
    let word = |segment: Segment<'_>| match segment {
        Segment::Special(id) => tokenizer.token_text(id),
        Segment::Ids(Origin::Prefix, _) => "BEFORE".to_owned(),
        Segment::Ids(Origin::Suffix, _) => "AFTER".to_owned(),
        Segment::Ids(Origin::Template | Origin::Context | Origin::Typed, _) => String::new(),
    };
    template.segments(None, ids).into_iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, RawConfig};

    const MELLUM: &[u8] = include_bytes!("../../../tests/golden/tokenizers/mellum/tokenizer.json");

    #[track_caller]
    fn check(family: &str, edit: impl Fn(&mut RawConfig), expected: &str) {
        let mut raw = RawConfig::default();
        raw.model.source = Some("org/model".to_owned());
        raw.model.family = Some(family.to_owned());
        edit(&mut raw);
        let config = Config::load(&raw, &Environment::default(), None).unwrap();
        let tokenizer = Tokenizer::from_json(MELLUM).unwrap();
        let text = Filling::of(&config, "LlamaForCausalLM", &tokenizer).to_string();
        assert!(text.starts_with(expected), "{family}: {text}");
    }

    #[test]
    fn says_what_serving_would_do() {
        let nothing = |_: &mut RawConfig| {};
        let mellum = "mellum, with other files: <fim_suffix>AFTER<fim_prefix>BEFORE<fim_middle>";
        check("mellum", nothing, mellum);
        let with_bos = |raw: &mut RawConfig| raw.model.fim_bos = Some("<fim_pad>".to_owned());
        check("mellum", with_bos, "mellum, with other files: <fim_pad><fim_suffix>AFTER");
        check("opencoder", nothing, "opencoder was not trained to, texts can only be continued: ");
        let sentinels = |raw: &mut RawConfig| {
            raw.model.fim_prefix = Some("<fim_prefix>".to_owned());
            raw.model.fim_suffix = Some("<fim_suffix>".to_owned());
        };
        let own = "by the settings, one file alone: <fim_prefix>BEFORE<fim_suffix>AFTER";
        check("opencoder", sentinels, own);
        check("none", sentinels, own);
        check("none", nothing, "no form is known");
        check(
            "qwen2.5-coder",
            nothing,
            "it would not be served: the FIM form `qwen2.5-coder` needs",
        );
        check("gpt-4o", nothing, "it would not be served: `model.family` must be");
    }
}
