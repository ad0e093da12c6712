//! Bodies that are almost right: seeds of each wire format with bytes and members changed.

#[path = "../fuzz/properties.rs"]
#[expect(
    clippy::expect_used,
    unreachable_pub,
    reason = "a property fails by panicking; another crate has this file for its root"
)]
mod properties;

use std::{cell::Cell, fs, path::Path};

use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};

/// The fuzz targets of wire formats, and where their bodies go.
const TARGETS: [(&str, &str); 6] = [
    ("openai_completions", "/v1/completions"),
    ("openai_chat", "/v1/chat/completions"),
    ("gitlab_v2", "/v2/code/completions"),
    ("gitlab_generations", "/v2/code/generations"),
    ("gitlab_components", "/v4/code/suggestions"),
    ("gitlab_prompts", "/v2/prompts/model_configuration/check"),
];

/// What values and names are replaced by.
const VALUES: [&str; 14] = [
    "null",
    "true",
    "0",
    "-1",
    "1.5",
    "1e999",
    "18446744073709551616",
    "\"\"",
    "\"\\ud800\"",
    "[]",
    "{}",
    "[[]]",
    "{\"a\":{}}",
    "\"\u{0}\"",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let files =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

/// A change of a body: bytes put in, cut out, or a value of JSON in place of another.
#[derive(Clone, Debug)]
enum Change {
    Byte(prop::sample::Index, u8),
    Cut(prop::sample::Index, prop::sample::Index),
    Value(prop::sample::Index, &'static str),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(|(a, b)| Change::Cut(a, b)),
        (any::<prop::sample::Index>(), prop::sample::select(VALUES.to_vec()))
            .prop_map(|(at, value)| Change::Value(at, value)),
    ];
    prop::collection::vec(change, 1..4)
}

fn apply(mut body: Vec<u8>, change: &Change) -> Vec<u8> {
    if body.is_empty() {
        return body;
    }
    match change {
        Change::Byte(at, byte) => body.insert(at.index(body.len()), *byte),
        Change::Cut(a, b) => {
            let (a, b) = (a.index(body.len()), b.index(body.len()));
            body.drain(a.min(b)..a.max(b).min(a.min(b) + 16));
        }
        Change::Value(at, value) => {
            // From behind a colon to the next comma or bracket is a value, or the beginning of one.
            let colons: Vec<usize> = (0..body.len()).filter(|index| body[*index] == b':').collect();
            let Some(start) = (!colons.is_empty()).then(|| colons[at.index(colons.len())] + 1)
            else {
                return body;
            };
            let rest = body[start..].iter().position(|byte| b",]}".contains(byte));
            let end = rest.map_or(body.len(), |rest| start + rest);
            body.splice(start..end, value.bytes());
        }
    }
    body
}

#[test]
fn seeds_are_answered_and_hold_a_secret() {
    for (target, path) in TARGETS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{target}");
        for seed in seeds {
            let text = String::from_utf8(seed).unwrap();
            assert!(
                target == "gitlab_prompts" || text.contains(properties::SECRET),
                "{target}: {text}"
            );
            assert_eq!(properties::wire(path, text.as_bytes()), 200, "{target}: {text}");
        }
    }
}

#[test]
fn changed_bodies_are_answered_or_refused_without_a_word_of_theirs() {
    for (target, path) in TARGETS {
        let strategy = (prop::sample::select(seeds(target)), changes());
        let config =
            ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
        let num_refused = Cell::new(0);
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
            .run(&strategy, |(seed, changes)| {
                let body = changes.iter().fold(seed, apply);
                let is_refused = properties::wire(path, &body) != 200;
                num_refused.set(num_refused.get() + u32::from(is_refused));
                Ok(())
            })
            .unwrap();
        let num_refused = num_refused.get();
        assert!(num_refused > 40, "{target}: {num_refused} of 400 were refused");
    }
}

#[test]
fn changed_completions_keep_what_the_chain_promises() {
    let strategy = (prop::sample::select(seeds("postprocess")), changes());
    let config =
        ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let run = |(seed, changes): (Vec<u8>, Vec<Change>)| {
        properties::chain(&changes.iter().fold(seed, apply));
        Ok(())
    };
    TestRunner::new_with_rng(config, rng).run(&strategy, run).unwrap();
}
