//! The binary as a shell sees it: output, messages and exit codes.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test helper fails by panicking"
)]

mod access;
mod auth;
mod bench;
mod collector;
mod complete;
mod config;
mod content;
mod demo_model;
mod fallback;
mod help;
mod metrics;
mod prompts;
mod providers;
mod reports;
mod routes;
mod selftest;
mod serve;
mod telemetry;
mod traces;
#[path = "../equivalence/trained.rs"]
mod trained;

use std::process::{Command, Output};

/// Exit code of what was typed wrongly.
const USAGE: i32 = 64;

/// What a run left behind.
#[derive(Debug, PartialEq)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `lacuna` with these arguments and variables, and no others.
fn lacuna(arguments: &[&str], variables: &[(&str, &str)]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_lacuna"))
        .args(arguments)
        .env_clear()
        .env("HOME", "/home/ada")
        .envs(variables.iter().copied())
        .output()
        .expect("the binary was built for this test");
    Run::of(output)
}

impl Run {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("messages are UTF-8"),
        }
    }

    /// Checks that the run was refused as wrongly typed, in one line that holds `message` and nothing on stdout.
    #[track_caller]
    fn is_refused_with(&self, message: &str) {
        assert_eq!(self.code, Some(USAGE), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert_eq!(self.stderr, format!("error: {message}\n"));
    }
}

/// A file in the temporary folder that goes away with its value.
struct TempFile(std::path::PathBuf);

impl TempFile {
    fn new(name: &str, text: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("lacuna-cli-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("the temporary folder can be written");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the temporary folder has a UTF-8 name")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
