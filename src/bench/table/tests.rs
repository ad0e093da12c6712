//! How results look.

use std::collections::BTreeMap;

use super::*;
use crate::bench::{
    keystrokes::{KeyCounts, KeystrokesSettings},
    machine::Machine,
};

fn run_facts(is_complete: bool) -> Run {
    Run {
        version: "0.1.0",
        commit: "0123456789ab",
        date: "2026-11-21T06:46:39Z".to_owned(),
        command: "lacuna bench".to_owned(),
        is_complete,
        machine: Machine {
            cpu: "A processor with a name as long as they come @ 2.0 GHz".to_owned(),
            num_cores: 128,
            memory_bytes: Some(512 << 30),
            os: "linux",
            architecture: "x86_64",
        },
        simd: "avx512".to_owned(),
    }
}

#[test]
fn columns_are_aligned() {
    let mut table = Table::new(&["name", "a", "bb"]);
    table.row(vec!["x".to_owned(), "100".to_owned(), "é".to_owned()]);
    assert_eq!(table.render(), "name    a  bb\nx     100   é\n");
}

#[test]
fn numbers_have_digits_that_tell_something() {
    let rows = [(0.123, "0.12"), (9.994, "9.99"), (44.32, "44.3"), (1331.4, "1331")];
    for (value, text) in rows {
        assert_eq!(rate(value), text);
    }
}

#[test]
fn a_result_that_was_stopped_says_so() {
    let spread = Spread::of(vec![13.0e9, 16.0e9, 15.0e9]).unwrap();
    let result =
        BandwidthResult { num_threads: Some(2), num_bytes: 512 << 20, bytes_per_second: spread };
    let results = BandwidthResults { threads: vec![result] };
    let whole = bandwidth(&run_facts(true), &results);
    let row = whole.lines().last().unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells, ["2", "16.00", "15.00", "13.00", "512"]);
    assert!(whole.lines().all(|line| line.chars().count() <= 100), "{whole}");
    assert!(bandwidth(&run_facts(false), &results).starts_with("stopped early"));
}

fn typed(keys: KeyCounts, time: Option<Percentiles>, model: &str) -> KeystrokesResult {
    KeystrokesResult {
        server: ServerFacts {
            address: "127.0.0.1:65535".to_owned(),
            dialect: "openai",
            model: Some(model.to_owned()),
        },
        settings: KeystrokesSettings {
            client: "line-start",
            keys: keys.typed,
            interval_ms: 60_000,
            max_tokens: 16,
        },
        duration_seconds: 1.0,
        keys,
        errors: BTreeMap::new(),
        first_key: None,
        time_to_first_token_seconds: time,
        prompt_tokens: Percentiles::of(&[1_000_000.0; 3]),
        recomputed_tokens: None,
        samples: Vec::new(),
    }
}

#[test]
fn keys_without_a_text_are_not_hidden() {
    let keys =
        KeyCounts { typed: 100_000, cancelled: 4, superseded: 99_996, ..KeyCounts::default() };
    let rows = [(Percentiles::of(&[0.001, 0.002]), "2 of 99999 keys"), (None, "0 of 99999 keys")];
    for (time, expected) in rows {
        let text = keystrokes(&run_facts(true), &typed(keys, time, "m"));
        let row = text.lines().find(|line| line.starts_with("time to first token")).unwrap();
        assert!(row.ends_with(expected), "{text}");
        assert!(text.contains("  3 of 99999 keys"), "{text}");
        let table = text.split("\n\n").last().unwrap();
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    }
}

#[test]
fn the_name_of_a_model_is_one_short_printable_line() {
    let name = format!("\u{1b}]0;evil\u{7}\n{}", "a".repeat(1000));
    let text = keystrokes(&run_facts(true), &typed(KeyCounts::default(), None, &name));
    let line = text.lines().find(|line| line.starts_with("server")).unwrap();
    assert!(line.contains(r"(openai), \u{1b}]0;evil\u{7}\naaa"), "{line}");
    assert!(line.ends_with('…') && line.chars().count() <= 100, "{line}");
}
