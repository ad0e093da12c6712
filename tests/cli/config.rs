//! `check-config`, `print-config` and settings that cannot be used.

use crate::{TempFile, lacuna};

#[test]
fn the_example_is_ok_and_prints_the_defaults() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/lacuna.example.toml");
    let run = lacuna(&["check-config", example], &[]);
    assert_eq!((run.code, run.stdout), (Some(0), format!("{example}: ok\n")));
    let of_example = lacuna(&["print-config", "--config", example], &[]);
    assert_eq!(of_example, lacuna(&["print-config"], &[]));
    assert_eq!(of_example.code, Some(0));
}

#[test]
fn what_is_printed_is_taken_back() {
    let run = lacuna(
        &[
            "print-config",
            "--port",
            "6000",
            "--threads",
            "3",
            "--model",
            "org/name@v1",
            "--log",
            "debug",
        ],
        &[("LACUNA_KV_CACHE_MEMORY", "2GiB"), ("HF_HOME", "/cache")],
    );
    assert_eq!(run.code, Some(0), "{run:?}");
    for line in [
        "port = 6000",
        "threads = 3",
        "source = \"org/name@v1\"",
        "served_name = \"org/name\"",
        "filter = \"debug\"",
        "kv_cache_memory = \"2GiB\"",
        "cache = \"/cache/hub\"",
        "block_size = 16",
    ] {
        assert!(
            run.stdout.lines().any(|printed| printed == line),
            "{line} is not in\n{}",
            run.stdout
        );
    }
    let file = TempFile::new("printed.toml", run.stdout.as_bytes());
    assert_eq!(lacuna(&["print-config", "--config", file.path()], &[]).stdout, run.stdout);
    assert_eq!(lacuna(&["print-config"], &[("LACUNA_CONFIG", file.path())]).stdout, run.stdout);
}

#[test]
fn options_win_over_variables_over_the_file() {
    let file = TempFile::new("layers.toml", b"[server]\nport = 1\n");
    let port = |arguments: &[&str], variables: &[(&str, &str)]| {
        let arguments = [&["print-config", "--config", file.path()], arguments].concat();
        let stdout = lacuna(&arguments, variables).stdout;
        stdout.lines().find(|line| line.starts_with("port")).map(ToOwned::to_owned)
    };
    assert_eq!(port(&[], &[]).as_deref(), Some("port = 1"));
    assert_eq!(port(&[], &[("LACUNA_PORT", "2")]).as_deref(), Some("port = 2"));
    assert_eq!(port(&["--port", "3"], &[("LACUNA_PORT", "2")]).as_deref(), Some("port = 3"));
}

#[test]
fn bad_files_are_refused_with_the_place() {
    let rows: &[(&str, &str)] = &[
        (
            "[server]\nprot = 1\n",
            "FILE:2:1: unknown key `server.prot`; the nearest is `server.port`",
        ),
        ("[servr]\nport = 1\n", "FILE:1:2: unknown key `servr`; the nearest is `server`"),
        (
            "[engine]\nblock_size = 3\n",
            "`engine.block_size` must be between 8 and 256, got 3 (at FILE:2:1)",
        ),
        (
            "[server]\nport = \"x\"\n",
            "FILE:2:8: `server.port`: invalid type: string \"x\", expected an integer",
        ),
    ];
    for (text, message) in rows {
        let file = TempFile::new("bad.toml", text.as_bytes());
        let message = message.replace("FILE", file.path());
        lacuna(&["check-config", file.path()], &[]).is_refused_with(&message);
        lacuna(&["print-config", "--config", file.path()], &[]).is_refused_with(&message);
        lacuna(&["serve", "--config", file.path()], &[]).is_refused_with(&message);
        lacuna(&["check-config"], &[("LACUNA_CONFIG", file.path())]).is_refused_with(&message);
    }
}

#[test]
fn several_models_are_checked_and_printed_and_taken_back() {
    let text = b"[[models]]\nsource = \"demo\"\naliases = [\"codestral-latest\"]\nadapters = [\"review=org/review@v1\", \"docs=org/docs@v2\"]\n[[models]]\nsource = \"demo\"\nserved_name = \"small\"\nmax_num_seqs = 2\n";
    let file = TempFile::new("several.toml", text);
    assert_eq!(lacuna(&["check-config", file.path()], &[]).code, Some(0));
    let printed = lacuna(&["print-config", "--config", file.path()], &[]).stdout;
    let lines = |line: &str| printed.lines().filter(|printed| *printed == line).count();
    let rows = [
        ("[[models]]", 2),
        ("[model]", 0),
        ("served_name = \"small\"", 1),
        ("adapters = [\"review=org/review@v1\", \"docs=org/docs@v2\"]", 1),
        ("max_num_seqs = 32", 2),
    ];
    for (line, num) in rows {
        assert_eq!(lines(line), num, "{line} in\n{printed}");
    }
    let again = TempFile::new("several-printed.toml", printed.as_bytes());
    assert_eq!(lacuna(&["print-config", "--config", again.path()], &[]).stdout, printed);
    let one = lacuna(&["print-config", "--config", file.path(), "--model", "demo"], &[]).stdout;
    assert_eq!(one, lacuna(&["print-config"], &[]).stdout);
    let beside = [("LACUNA_DEVICE", "cpu")];
    lacuna(&["check-config", file.path()], &beside).is_refused_with(
        "`model.device` must be left out where `[[models]]` says what is loaded, or be a key of its tables, got \"cpu\" (from LACUNA_DEVICE)",
    );
}

#[test]
fn families_and_folders_that_are_not_there_are_found_before_the_start() {
    let rows: &[(&str, &str)] = &[
        ("[model]\nfamily = \"qwen9\"", "`model.family` must be auto, none or one of "),
        (
            "[[models]]\nsource = \"demo\"\n[[models]]\nsource = \"a/b\"\nfamily = \"qwen9\"",
            "the model `a/b`: `models[1].family` must be auto, none or one of ",
        ),
        (
            "[model]\nsource = \"/nowhere/coder\"",
            "there is no folder or regular file /nowhere/coder",
        ),
        ("[model.adapters]\na = \"/nowhere/a\"", "there is no folder or regular file /nowhere/a"),
    ];
    for (text, message) in rows {
        let file = TempFile::new("missing.toml", text.as_bytes());
        let run = lacuna(&["check-config", file.path()], &[]);
        assert_eq!(run.code, Some(64), "{run:?}");
        assert!(run.stderr.contains(message), "{run:?}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let run = lacuna(&["check-config", "/nowhere/lacuna.toml"], &[]);
    run.is_refused_with("cannot read the configuration /nowhere/lacuna.toml: No such file or directory (os error 2)");
}

#[test]
fn bad_options_and_variables_say_where_they_came_from() {
    lacuna(&["serve", "--block-size", "3"], &[]).is_refused_with(
        "`engine.block_size` must be between 8 and 256, got 3 (from --block-size)",
    );
    lacuna(&["--port", "-1"], &[])
        .is_refused_with("`server.port` must be between 0 and 65535, got -1 (from --port)");
    lacuna(&[], &[("LACUNA_BLOCK_SIZE", "3")]).is_refused_with(
        "`engine.block_size` must be between 8 and 256, got 3 (from LACUNA_BLOCK_SIZE)",
    );
    lacuna(&[], &[("LACUNA_PORT", "many")])
        .is_refused_with("the variable `LACUNA_PORT` must be an integer, got many");
    lacuna(&["check-config"], &[("LACUNA_MODLE", "demo")])
        .is_refused_with("unknown variable `LACUNA_MODLE`; the nearest is `LACUNA_MODEL`");
}

#[test]
fn an_empty_variable_counts_as_absent() {
    let run = lacuna(&["print-config"], &[("LACUNA_PORT", ""), ("LACUNA_CONFIG", "")]);
    assert!(run.stdout.contains("port = 5052"), "{run:?}");
}
