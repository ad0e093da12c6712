//! Tells the binary which commit it was built from, so that a measurement can say it. Without git, or without a
//! repository, the build goes on and the commit is unknown; `BUILD_COMMIT` at build time says it instead.

use std::{path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    println!("cargo::rustc-env=GIT_COMMIT={}", commit.map_or_else(|| "unknown".to_owned(), marked));
    // The log of HEAD grows with each commit; a path that is not there would run this at every build.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) =
            git(&["rev-parse", "--git-path", file]).filter(|path| Path::new(path).exists())
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for folder in ["src", "models/src", "kernels/src", "kernels/cuda", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={folder}");
    }
}

/// Marks a commit whose files were changed since.
fn marked(commit: String) -> String {
    let changes = git(&["status", "--porcelain", "--untracked-files=no"]);
    if changes.is_some_and(|changes| !changes.is_empty()) { commit + "-dirty" } else { commit }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
