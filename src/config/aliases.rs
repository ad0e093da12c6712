//! Variables of GitLab's AI Gateway, and ours that they stand for: their names, and their values in our spelling.

use serde_json::Value;

use crate::config::auth::{SIGNING_KEY, VALIDATION_KEY};

/// What begins the name of each variable of the gateway.
pub(super) const PREFIX: &str = "AIGW_";

/// A variable of the gateway that GitLab tells operators to set.
pub(super) struct Alias {
    /// Its name.
    pub(super) theirs: &'static str,
    /// Ours that it stands for where ours is not set. What stands for the same is joined, as a list.
    pub(super) ours: &'static str,
    /// Its value in our spelling; what makes no sense stays, and is refused where ours would be.
    pub(super) translate: fn(&str) -> String,
}

const fn alias(theirs: &'static str, ours: &'static str, translate: fn(&str) -> String) -> Alias {
    Alias { theirs, ours, translate }
}

pub(super) const ALIASES: [Alias; 17] = [
    // Of the libraries of OpenTelemetry and Sentry, which platforms set for each program.
    alias("OTEL_EXPORTER_OTLP_ENDPOINT", "LACUNA_OTLP_ENDPOINT", as_it_is),
    alias("OTEL_SERVICE_NAME", "LACUNA_OTLP_SERVICE_NAME", as_it_is),
    alias("OTEL_TRACES_SAMPLER_ARG", "LACUNA_TRACES_SAMPLE_RATIO", as_it_is),
    alias("SENTRY_ENVIRONMENT", "LACUNA_REPORTS_ENVIRONMENT", as_it_is),
    alias("AIGW_GITLAB_URL", "LACUNA_ISSUERS", as_it_is),
    alias("AIGW_CUSTOMER_PORTAL_URL", "LACUNA_ISSUERS", as_it_is),
    alias("AIGW_CLOUD_CONNECTOR_SERVICE_NAME", "LACUNA_AUTH_SERVICE_NAME", as_it_is),
    alias("AIGW_SELF_SIGNED_JWT__SIGNING_KEY", SIGNING_KEY, as_it_is),
    alias("AIGW_SELF_SIGNED_JWT__VALIDATION_KEY", VALIDATION_KEY, as_it_is),
    alias("AIGW_AUTH__BYPASS_EXTERNAL", "LACUNA_AUTH_BYPASS_EXTERNAL", python_word),
    alias(
        "AIGW_AUTH__BYPASS_EXTERNAL_WITH_HEADER",
        "LACUNA_AUTH_BYPASS_EXTERNAL_WITH_HEADER",
        python_word,
    ),
    alias("AIGW_AUTH__BYPASS_JWT_SIGNATURE", "LACUNA_AUTH_BYPASS_JWT_SIGNATURE", python_word),
    alias("AIGW_LOGGING__ENABLE_REQUEST_LOGGING", "LACUNA_LOG_CONTENT", log_content),
    alias("AIGW_CUSTOM_MODELS__ENABLED", "LACUNA_CUSTOM_MODELS", python_word),
    alias("AIGW_FEATURE_FLAGS__DISALLOWED_FLAGS", "LACUNA_FLAGS_DISALLOWED", flags_by_realm),
    alias(
        "AIGW_FEATURE_FLAGS__EXCL_POST_PROCESS",
        "LACUNA_POSTPROCESS_COMPLETION",
        completion_steps,
    ),
    alias(
        "AIGW_FEATURE_FLAGS__EXCL_POST_PROCESS",
        "LACUNA_POSTPROCESS_GENERATION",
        generation_steps,
    ),
];

/// The gateway's names of steps, ours, and whether generated code goes through them too.
const STEPS: [(&str, &str, bool); 9] = [
    ("remove_comment_only_completion", "comment_only", false),
    ("clean_irrelevant_keywords", "special_tokens", true),
    ("trim_by_min_allowed_context", "scope", false),
    ("fix_end_block_errors", "suffix_overlap", false),
    ("clean_model_reflection", "repeated_lines", true),
    ("strip_whitespaces", "whitespace", true),
    ("strip_asterisks", "asterisks", false),
    ("filter_score", "min_score", true),
    ("fix_truncation", "unfinished", false),
];

fn as_it_is(value: &str) -> String {
    value.to_owned()
}

/// The gateway takes Python's words for true and false, which are more than ours.
fn python_word(value: &str) -> String {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" | "t" | "y" => "true".to_owned(),
        "false" | "0" | "off" | "no" | "f" | "n" => "false".to_owned(),
        _ => value.to_owned(),
    }
}

/// The gateway logs everybody's source text, or theirs who ask.
fn log_content(value: &str) -> String {
    match python_word(value).as_str() {
        "true" => "always".to_owned(),
        "false" => "asked".to_owned(),
        other => other.to_owned(),
    }
}

/// `{"self-managed": ["a", "b"]}` is `self-managed:a,self-managed:b`.
fn flags_by_realm(value: &str) -> String {
    let Ok(Value::Object(realms)) = serde_json::from_str(value) else { return value.to_owned() };
    let of_realm = |(realm, flags): (&String, &Value)| {
        let flags = flags.as_array().into_iter().flatten().filter_map(Value::as_str);
        flags.map(|flag| format!("{realm}:{flag}")).collect::<Vec<_>>()
    };
    realms.iter().flat_map(of_realm).collect::<Vec<_>>().join(",")
}

fn completion_steps(value: &str) -> String {
    steps_without(value, |(_, _, _)| true)
}

fn generation_steps(value: &str) -> String {
    steps_without(value, |(_, _, is_generation)| is_generation)
}

/// `["filter_score"]` is `all,-min_score`. A name that nobody knows stays, and is refused; one that other code goes
/// through only is passed over.
fn steps_without(value: &str, concerns: fn((&str, &str, bool)) -> bool) -> String {
    let Ok(names) = serde_json::from_str::<Vec<String>>(value) else { return value.to_owned() };
    let mut steps = vec!["all".to_owned()];
    for name in names {
        let plain = name.strip_suffix("_legacy").unwrap_or(&name);
        let word = match STEPS.iter().find(|(theirs, ..)| *theirs == plain) {
            Some(step) if concerns(*step) => format!("-{}", step.1),
            Some(_) => continue,
            None => format!("-{name}"),
        };
        if !steps.contains(&word) {
            steps.push(word);
        }
    }
    steps.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a value is translated, and what it is on both sides.
    type Row = (fn(&str) -> String, &'static str, &'static str);

    #[test]
    fn their_values_are_ours_in_another_spelling() {
        let rows: [Row; 11] = [
            (log_content, "True", "always"),
            (log_content, "0", "asked"),
            (python_word, "True", "true"),
            (python_word, "maybe", "maybe"),
            (
                flags_by_realm,
                r#"{"self-managed":["a","b"],"saas":["c"]}"#,
                "saas:c,self-managed:a,self-managed:b",
            ),
            (flags_by_realm, "a", "a"),
            (completion_steps, "[]", "all"),
            (
                completion_steps,
                r#"["filter_score","fix_end_block_errors","fix_end_block_errors_legacy"]"#,
                "all,-min_score,-suffix_overlap",
            ),
            (generation_steps, r#"["filter_score","strip_asterisks"]"#, "all,-min_score"),
            (completion_steps, r#"["other"]"#, "all,-other"),
            (completion_steps, "other", "other"),
        ];
        for (translate, theirs, ours) in rows {
            let mut translated: Vec<_> = translate(theirs).split(',').map(str::to_owned).collect();
            let mut expected: Vec<_> = ours.split(',').map(str::to_owned).collect();
            translated.sort();
            expected.sort();
            assert_eq!(translated, expected, "{theirs}");
        }
    }
}
