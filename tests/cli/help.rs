//! Help, version and words that do not exist.

use crate::{USAGE, lacuna};

#[test]
fn help_shows_the_contract() {
    let run = lacuna(&["--help"], &[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.stderr, "");
    let words = [
        "serve",
        "complete",
        "check-config",
        "print-config",
        "--model",
        "--served-model-name",
        "--device",
        "--dtype",
        "--host",
        "--port",
        "--config",
        "--max-num-seqs",
        "--kv-cache-memory",
        "--threads",
        "--log-format",
        "[default: 5052]",
        "[default: 127.0.0.1]",
        "[default: demo]",
        "LACUNA_MAX_NUM_SEQS",
        "Examples:",
        "Exit codes:",
    ];
    // Help breaks its lines to the terminal's width.
    let help = run.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(help.contains(word), "{word} is not in\n{}", run.stdout);
    }
}

#[test]
fn short_help_leaves_the_rare_options_out() {
    let short = lacuna(&["-h"], &[]).stdout;
    assert!(short.contains("--port") && !short.contains("--block-size"), "{short}");
    assert!(lacuna(&["serve", "--help"], &[]).stdout.contains("--block-size"));
}

#[test]
fn every_subcommand_has_help() {
    for command in [
        "serve",
        "complete",
        "bench",
        "models",
        "keys",
        "prompts",
        "openapi",
        "selftest",
        "check-config",
        "print-config",
    ] {
        let run = lacuna(&[command, "--help"], &[]);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.stdout.contains(&format!("Usage: lacuna {command}")), "{}", run.stdout);
    }
}

#[test]
fn the_version_is_the_package_s() {
    let run = lacuna(&["--version"], &[]);
    assert_eq!(run.stdout, format!("lacuna {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(run.code, Some(0));
}

#[test]
fn words_that_do_not_exist_are_refused_with_a_hint() {
    let rows: &[(&[&str], &str)] = &[
        (&["sevre"], "'serve'"),
        (&["--prot", "1"], "'--port'"),
        (&["serve", "--max-num-seq", "1"], "'--max-num-seqs'"),
        (&["--port", "many"], "must be an integer"),
        (&["--port", "6000", "print-config"], "cannot be used with"),
        (&["complete", "x.rs", "--line", "1"], "--column"),
    ];
    for (arguments, hint) in rows {
        let run = lacuna(arguments, &[]);
        assert_eq!(run.code, Some(USAGE), "{run:?}");
        assert!(run.stderr.contains(hint), "{hint} is not in {}", run.stderr);
    }
}

#[test]
fn the_families_are_listed_for_people_and_programs() {
    let run = lacuna(&["models", "list"], &[]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert!(run.stdout.lines().any(|line| line.starts_with("codestral ")), "{}", run.stdout);
    let run = lacuna(&["models", "list", "--json"], &[]);
    let families: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let named = |name: &str| families.as_array().unwrap().iter().any(|row| row["name"] == name);
    assert!(named("codestral") && named("qwen2.5-coder"), "{}", run.stdout);
}
