//! Checks properties of the source itself: layers, fences, purity, unsafe places, sizes and headers.

#![expect(clippy::unwrap_used, reason = "a test helper fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Modules of `src/`, lowest layer first. A module names strictly lower layers only.
const LAYERS: &[&[&str]] = &[
    &["trace", "memo"],
    &["completion"],
    &["config", "telemetry"],
    &["tokenizer", "client", "flags", "syntax"],
    &["prompt", "engine", "postprocess", "hub"],
    &["provider", "export"],
    &["routing"],
    &["service", "auth"],
    &["api", "bench", "eval", "selftest"],
    &["server"],
    &["cli", "main", "lib"],
];

/// Crates and modules that may be named only in files whose path begins so.
const FENCED: &[(&str, &[&str])] = &[
    ("anyhow::", &["src/cli/", "src/main.rs", "src/eval/"]),
    ("axum::", &["src/api/", "src/server"]),
    ("candle_core::", &["models/", "kernels/", "src/engine/model_runner"]),
    ("clap::", &["src/cli/", "src/config/"]),
    // The environment: variables, arguments, the working folder. A bench names what it was built for.
    ("env::", &["src/config/", "src/bench/machine.rs", "kernels/build"]),
    ("hyper::", &["src/client/", "src/server"]),
    ("jsonwebtoken::", &["src/auth/"]),
    ("kernels::", &["kernels/", "models/"]),
    ("minijinja::", &["src/prompt/chat/", "src/prompt/registry/"]),
    (
        "models::",
        &[
            "models/",
            "src/bench/bandwidth.rs",
            "src/bench/operators.rs",
            "src/bench/engine/model.rs",
            "src/cli/bench/",
            "src/engine/model_runner",
            "src/engine/sample_rows",
            "src/engine/memory",
            "src/selftest/",
            "src/server",
            "src/cli/compose.rs",
            "src/cli/models/",
            "src/cli/placement.rs",
            "src/cli/selftest.rs",
            // Which files are one model: the names of parts, the index of shards.
            "src/hub/cache.rs",
            "src/hub/select.rs",
            // The alphabet of byte-level vocabularies and the limit of their size, which both sides write and read.
            "src/tokenizer/",
        ],
    ),
    ("prometheus::", &["src/telemetry/metrics/"]),
    ("reqwest::", &["src/provider/", "src/auth/", "src/hub/", "src/export/"]),
    ("rusqlite::", &["src/telemetry/store/database/"]),
    ("tokenizers::", &["src/tokenizer/"]),
    ("tokio_postgres::", &["src/telemetry/store/database/"]),
    ("tracing_subscriber::", &["src/telemetry/"]),
    // The grammars' crates too, whose names begin so.
    ("tree_sitter", &["src/syntax/"]),
];

/// Files that take values and the time, and return values.
const PURE: &[&str] = &[
    "src/auth/api_keys.rs",
    "src/auth/caller.rs",
    "src/auth/claims.rs",
    "src/auth/credentials.rs",
    "src/auth/key_set.rs",
    "src/auth/limits.rs",
    "src/auth/token.rs",
    "src/auth/user_token.rs",
    "src/bench/arrivals.rs",
    "src/bench/dialect.rs",
    "src/bench/engine/steps.rs",
    "src/bench/random.rs",
    "src/bench/report.rs",
    "src/bench/source_text.rs",
    "src/bench/statistics.rs",
    "src/bench/table/",
    "src/bench/typing.rs",
    "src/cli/place.rs",
    "src/client/events.rs",
    "src/completion/",
    "src/config/units.rs",
    "src/engine/batch",
    "src/engine/block_",
    "src/engine/kv_cache_manager",
    "src/engine/memory_plan.rs",
    "src/engine/prefix_cache",
    "src/engine/sampler",
    "src/engine/scheduler",
    "src/engine/sequence",
    "src/export/envelope.rs",
    "src/export/otlp.rs",
    "src/export/protobuf.rs",
    "src/flags/",
    "src/hub/digest.rs",
    "src/hub/select.rs",
    "src/postprocess/",
    "src/prompt/",
    "src/provider/hosted/error.rs",
    "src/provider/hosted/frames.rs",
    "src/provider/hosted/prompt.rs",
    "src/provider/hosted/protocol/",
    "src/routing/circuit_breaker/",
    "src/routing/deadline.rs",
    "src/routing/decision.rs",
    "src/routing/latency.rs",
    "src/routing/observer.rs",
    "src/routing/retry_budget.rs",
    "src/routing/route.rs",
    "src/routing/split.rs",
    "src/routing/window.rs",
    "src/syntax/",
    "src/telemetry/metrics/recent.rs",
    "src/telemetry/client.rs",
    "src/telemetry/day.rs",
    "src/telemetry/store/rows.rs",
    "src/tokenizer/detokenizer",
    "src/tokenizer/expression.rs",
    "src/tokenizer/seam",
    "src/tokenizer/stop",
    "src/trace/context.rs",
];

/// What a pure file may not name: clocks, tasks, logs, files, locks.
const IMPURE: &[&str] = &["::now()", "async ", "tokio::", "tracing::", "fs::", "Mutex"];

/// Where `unsafe` may stand: vector instructions and the device behind the operators, and the mapping of weight files.
const UNSAFE: &[&str] = &["kernels/", "models/src/weights", "tests/tidy.rs"];

const LINES_MAX: usize = 500;
const FN_LINES_MAX: usize = 70;
const FN_QUALIFIERS: &[&str] =
    &["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];

#[test]
fn sources_are_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "models", "kernels", "tests", "benches"] {
        collect(&root.join(folder), &mut files);
    }
    let mut errors = Vec::new();
    let mut num_checked = 0;
    for file in &files {
        let path = file.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
        let text = fs::read_to_string(file).unwrap();
        errors.extend(check(&path, &text));
        num_checked += usize::from(path == "src/lib.rs" || path == "tests/tidy.rs");
    }
    assert_eq!(num_checked, 2, "the sources were not found under {}", root.display());
    assert!(errors.is_empty(), "\n{}", errors.join("\n"));
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && path.file_name().unwrap() != "target" {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Returns what is untidy in the file at `path`, one line each.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if !text.starts_with("//! ") {
        errors.push(format!("{path}:1: starts without a `//!` line that says what it is for"));
    }
    check_lengths(path, text, &mut errors);
    check_unsafe(path, text, &mut errors);
    let is_test = path.contains("tests/") || path.ends_with("/tests.rs");
    if !is_test && !path.starts_with("benches/") {
        check_names(path, text, &mut errors);
    }
    errors
}

fn check_lengths(path: &str, text: &str, errors: &mut Vec<String>) {
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > LINES_MAX {
        errors.push(format!("{path}: {} lines, at most {LINES_MAX}", lines.len()));
    }
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let is_fn = code.split_once("fn ").is_some_and(|(head, _)| {
            head.split_whitespace().all(|word| FN_QUALIFIERS.contains(&word))
        });
        // A declaration ends in `;` and a body of one line in `}`; neither can be too long.
        let signature = lines[start..].iter().position(|line| line.ends_with(['{', ';', '}']));
        let Some(open) = signature.map(|length| start + length).filter(|_| is_fn) else { continue };
        if !lines[open].ends_with('{') {
            continue;
        }
        // rustfmt closes a function at the indent it opened at.
        let close = format!("{}}}", &line[..line.len() - code.len()]);
        let body = lines[open..].iter().position(|line| *line == close).unwrap_or(0);
        let length = open - start + body + 1;
        if length > FN_LINES_MAX {
            errors.push(format!("{path}:{}: function of {length} lines", start + 1));
        }
    }
}

fn check_unsafe(path: &str, text: &str, errors: &mut Vec<String>) {
    if UNSAFE.iter().any(|prefix| path.starts_with(prefix)) {
        return;
    }
    for (number, code) in code_lines(text) {
        // The lint's name in an attribute lifts the ban, so it counts as the keyword does.
        let lifts_ban = code.contains("(unsafe_code");
        if lifts_ban
            || names(code, "unsafe {")
            || names(code, "unsafe fn")
            || names(code, "unsafe impl")
        {
            errors.push(format!("{path}:{number}: `unsafe` belongs in {}", UNSAFE.join(", ")));
        }
    }
}

/// Layers, fences and purity.
fn check_names(path: &str, text: &str, errors: &mut Vec<String>) {
    let own = path.strip_prefix("src/").map(|rest| rest.split(['/', '.']).next().unwrap());
    if let Some(own) = own
        && layer(own).is_none()
    {
        errors.push(format!("{path}: `{own}` has no layer"));
        return;
    }
    let is_pure = PURE.iter().any(|prefix| path.starts_with(prefix));
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    if let Some(own) = own {
        check_layers(own, &without_comments(text), path, errors);
    }
    for (number, code) in code_lines(text) {
        let at = format!("{path}:{number}");
        for (name, allowed) in FENCED {
            // A module of the file's own that bears the name is another thing.
            let declared = format!("mod {};", name.trim_end_matches(':'));
            let is_allowed = allowed.iter().any(|prefix| path.starts_with(prefix));
            if names(code, name) && !is_allowed && !text.contains(&declared) {
                errors.push(format!("{at}: `{name}` belongs in {}", allowed.join(", ")));
            }
        }
        for name in IMPURE.iter().filter(|name| is_pure && code.contains(*name)) {
            errors.push(format!("{at}: `{name}` in a file that is pure"));
        }
    }
}

fn check_layers(own: &str, code: &str, path: &str, errors: &mut Vec<String>) {
    for (number, used) in named_modules(code) {
        let at = format!("{path}:{number}");
        match layer(used) {
            _ if used == own => {}
            Some(used_layer) if Some(used_layer) < layer(own) => {}
            Some(_) => errors.push(format!("{at}: `{own}` may not name `{used}`")),
            None => errors.push(format!("{at}: `crate::{used}` names no module")),
        }
    }
}

/// Returns the top-level modules that the code names after `crate::`, alone or in a group, each with its line.
fn named_modules(code: &str) -> Vec<(usize, &str)> {
    let mut modules = Vec::new();
    for (index, matched) in code.match_indices("crate::") {
        let tail = &code[index + matched.len()..];
        let group = tail.strip_prefix('{');
        let mut depth = 0;
        let mut is_start = true;
        for (offset, c) in group.unwrap_or(tail).char_indices() {
            let from = &group.unwrap_or(tail)[offset..];
            if is_start && depth == 0 && is_word(c) {
                let start = code.len() - from.len();
                let module = from.split(|c| !is_word(c)).next().unwrap();
                modules.push((code[..start].matches('\n').count() + 1, module));
            }
            depth += i32::from(c == '{') - i32::from(c == '}');
            is_start = (is_start && c.is_whitespace()) || c == ',';
            if group.is_none() || depth < 0 {
                break;
            }
        }
    }
    modules
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// Returns the lines outside of comments, from 1.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_start()));
    lines.filter(|(_, code)| !code.starts_with("//"))
}

/// Returns the code with its comment lines emptied, so that places stay.
fn without_comments(text: &str) -> String {
    let is_comment = |line: &&str| line.trim_start().starts_with("//");
    text.lines()
        .map(|line| if is_comment(&line) { "\n".to_owned() } else { format!("{line}\n") })
        .collect()
}

/// Returns whether `name` stands in the code as a whole word from its first letter on.
fn names(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(index, _)| {
        let before = code[..index].strip_suffix("std::").unwrap_or(&code[..index]);
        !before.ends_with(is_word) && !before.ends_with(':')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that `code`, below a header, breaks the rule that `message` names at `path`, or none.
    #[track_caller]
    fn gives(path: &str, code: &str, message: Option<&str>) {
        let errors = check(path, &format!("//! Something.\n\n{code}\n"));
        match message {
            None => assert_eq!(errors, Vec::<String>::new(), "{path}: {code}"),
            Some(message) => assert!(
                errors.len() == 1 && errors[0].contains(message),
                "{path}: {code}\nexpected {message}, got {errors:?}"
            ),
        }
    }

    #[test]
    fn layers_are_kept() {
        let up = Some("may not name");
        gives("src/engine/mod.rs", "use crate::tokenizer::Tokenizer;", None);
        gives("src/engine/mod.rs", "use crate::engine::batch::Batch;", None);
        gives("src/engine/mod.rs", "use crate::provider::Provider;", up);
        gives("src/engine/mod.rs", "use crate::prompt::Prompt;", up);
        gives("src/config/mod.rs", "fn a(b: &crate::telemetry::Logs) {}", up);
        gives(
            "src/service.rs",
            "use crate::{\n    completion::Usage,\n    provider::{Provider, api},\n};",
            None,
        );
        gives("src/service.rs", "use crate::{\n    completion::{Usage},\n    api::router,\n};", up);
        gives("src/service.rs", "use crate::{completion::Usage, api};", up);
        gives("src/service.rs", "use crate::Thing;", Some("names no module"));
        gives("src/service.rs", "// crate::api is above.", None);
        gives("src/service.rs", "use crate::api::router;", up);
        gives("src/cli/compose.rs", "use crate::server::serve;", None);
        gives("src/server.rs", "use crate::cli::serve;", up);
        gives("src/thing.rs", "", Some("`thing` has no layer"));
    }

    #[test]
    fn fences_are_kept() {
        let rows = [
            ("src/cli/mod.rs", "src/provider/mod.rs", "use anyhow::Context;"),
            ("src/api/mod.rs", "src/service.rs", "use axum::Router;"),
            ("models/src/a.rs", "src/engine/mod.rs", "use candle_core::Tensor;"),
            ("src/config/raw.rs", "src/telemetry/logs.rs", "use clap::Args;"),
            ("src/config/environment.rs", "src/hub/mod.rs", "let a = std::env::var(\"A\");"),
            ("src/config/environment.rs", "src/hub/mod.rs", "for a in env::vars_os() {}"),
            ("src/client/mod.rs", "src/cli/compose.rs", "use hyper::Request;"),
            ("src/auth/token.rs", "src/api/access.rs", "use jsonwebtoken::decode;"),
            (
                "models/src/decoder.rs",
                "src/engine/model_runner.rs",
                "use kernels::backend::Backend;",
            ),
            ("src/prompt/chat/mod.rs", "src/prompt/mod.rs", "use minijinja::Environment;"),
            ("src/engine/memory.rs", "src/provider/local.rs", "use models::DecoderSpec;"),
            ("src/telemetry/metrics/mod.rs", "src/service/mod.rs", "use prometheus::Registry;"),
            ("src/provider/http.rs", "src/service.rs", "let a = reqwest::Client::new();"),
            (
                "src/telemetry/store/database/sqlite.rs",
                "src/telemetry/store/writer.rs",
                "use rusqlite::Connection;",
            ),
            (
                "src/telemetry/store/database/postgres.rs",
                "src/cli/report/mod.rs",
                "use tokio_postgres::Client;",
            ),
            ("src/tokenizer/mod.rs", "src/prompt/mod.rs", "use tokenizers::Tokenizer;"),
            ("src/telemetry/logs.rs", "src/cli/mod.rs", "use tracing_subscriber::fmt;"),
            ("src/syntax/mod.rs", "src/prompt/mod.rs", "use tree_sitter::Parser;"),
            ("src/syntax/mod.rs", "src/prompt/mod.rs", "let a = tree_sitter_go::LANGUAGE;"),
        ];
        for (inside, outside, code) in rows {
            gives(inside, code, None);
            gives(outside, code, Some("belongs in"));
        }
        assert!(FENCED.iter().all(|(name, _)| rows.iter().any(|row| row.2.contains(name))));
        gives("src/api/openai/mod.rs", "mod models;\n\nuse self::models::list;", None);
        gives("src/service.rs", "// axum::Router is for others.", None);
        gives("src/service.rs", "use my_axum::Router;", None);
    }

    #[test]
    fn pure_files_are_pure() {
        let rows = [
            "let now = Instant::now();",
            "async fn a() {}",
            "let a = tokio::spawn(b);",
            "tracing::info!(\"a\");",
            "let a = fs::read(b);",
            "let a: Mutex<u8>;",
        ];
        for code in rows {
            gives("src/engine/scheduler.rs", code, Some("a file that is pure"));
            gives("src/engine/scheduler/policy.rs", code, Some("a file that is pure"));
            gives("src/engine/handle.rs", code, None);
        }
        assert!(IMPURE.iter().all(|name| rows.iter().any(|row| row.contains(name))));
        let test = "#[cfg(test)]\nmod tests {\n    use std::sync::Mutex;\n}";
        gives("src/engine/scheduler.rs", test, None);
        gives(
            "src/engine/scheduler.rs",
            "#[cfg(test)]\nmod tests;\n\nuse std::sync::Mutex;",
            Some("pure"),
        );
    }

    #[test]
    fn unsafe_code_stays_in_its_places() {
        for code in [
            "unsafe { a() }",
            "pub unsafe fn a() {}",
            "unsafe impl Send for A {}",
            "#![expect(unsafe_code, reason = \"a\")]",
        ] {
            gives("kernels/src/cpu/gemm.rs", code, None);
            gives("models/src/weights.rs", code, None);
            gives("models/src/decoder.rs", code, Some("`unsafe` belongs in"));
            gives("src/engine/mod.rs", code, Some("`unsafe` belongs in"));
            gives("tests/cli/main.rs", code, Some("`unsafe` belongs in"));
        }
    }

    #[test]
    fn every_file_says_what_it_is_for() {
        for text in ["", "fn a() {}\n", "// A comment.\n", "//!\n"] {
            let errors = check("src/service.rs", text);
            assert!(errors.len() == 1 && errors[0].contains("says what it is for"), "{errors:?}");
        }
    }

    #[test]
    fn files_and_functions_are_short() {
        let function = |num_lines: usize| {
            format!("    pub fn a(\n    ) {{\n{}    }}", "        b();\n".repeat(num_lines - 3))
        };
        gives("src/service.rs", &function(FN_LINES_MAX), None);
        gives("src/service.rs", &function(FN_LINES_MAX + 1), Some("function of 71 lines"));
        gives("tests/cli/main.rs", &function(FN_LINES_MAX + 1), Some("function of 71 lines"));
        let declarations =
            format!("trait A {{\n    fn a();\n{}}}\nfn b() {{\n}}", "    // More.\n".repeat(80));
        gives("src/service.rs", &declarations, None);
        gives("src/service.rs", &"// Line.\n".repeat(LINES_MAX - 3), None);
        gives(
            "src/service.rs",
            &"// Line.\n".repeat(LINES_MAX - 2),
            Some("501 lines, at most 500"),
        );
    }
}
