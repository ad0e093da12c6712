//! Logits and greedy output of Hugging Face transformers: f32, from the same bf16 weights.
//!
//! `tests/golden/make_golden.py` makes the files and says with which versions.

use std::{
    fs,
    path::{Path, PathBuf},
};

use models::{Device, KvDType, Source, WeightFormat, load, read_spec};
use serde::Deserialize;

use crate::support::{DEVICES, Runner, Sequence, argmax, options};

/// Relative to one more than the logit. Both backends were within 2e-6 of PyTorch when this was set; a wrong rotation,
/// a swapped projection or a missing bias is off by 1e-1 and more.
const LOGIT_TOLERANCE: f32 = 1e-4;

/// The same with keys and values in f16, as they are served.
const F16_LOGIT_TOLERANCE: f32 = 2e-3;

/// Cases that the reference runs, a scalar loop being a hundred times slower: the shortest.
const NUM_REFERENCE_CASES: usize = 2;

#[derive(Debug, Deserialize)]
struct Demo {
    cases: Vec<DemoCase>,
}

#[derive(Debug, Deserialize)]
struct DemoCase {
    name: String,
    prompt_ids: Vec<u32>,
    output_ids: Vec<u32>,
    finish: String,
    last_logits_of_prompt: TopLogits,
}

#[derive(Debug, Deserialize)]
struct TopLogits {
    top_ids: Vec<u32>,
    top_logits: Vec<f32>,
}

#[derive(Debug, Deserialize)]
struct Tiny {
    cases: Vec<TinyCase>,
}

#[derive(Debug, Deserialize)]
struct TinyCase {
    prompt_ids: Vec<u32>,
    logits: Vec<f32>,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn demo_cases() -> Vec<DemoCase> {
    let text = fs::read(golden("demo.json")).unwrap();
    serde_json::from_slice::<Demo>(&text).unwrap().cases
}

fn demo_runner(device: Device, weight_format: WeightFormat, kv_dtype: KvDType) -> Runner {
    let options = models::LoadOptions { weight_format, kv_dtype, ..options(device) };
    Runner::new(load(Source::Demo, &options, &mut |_| {}).unwrap())
}

#[test]
fn demo_on_the_cpu_equals_transformers() {
    let cases = demo_cases();
    assert!(cases.len() >= 32, "{} cases", cases.len());
    let tolerances = [(KvDType::F16, F16_LOGIT_TOLERANCE), (KvDType::F32, LOGIT_TOLERANCE)];
    for (kv_dtype, tolerance) in tolerances {
        let mut runner = demo_runner(Device::Cpu, WeightFormat::Stored, kv_dtype);
        for case in &cases {
            check_demo(&mut runner, case, tolerance);
        }
    }
}

#[test]
fn widened_demo_on_the_cpu_equals_transformers() {
    let mut runner = demo_runner(Device::Cpu, WeightFormat::F32, KvDType::F32);
    for case in demo_cases().iter().step_by(8) {
        check_demo(&mut runner, case, LOGIT_TOLERANCE);
    }
}

#[test]
fn demo_on_the_reference_equals_transformers() {
    let mut cases = demo_cases();
    cases.sort_by_key(|case| case.prompt_ids.len() + case.output_ids.len());
    let mut runner = demo_runner(Device::Reference, WeightFormat::Stored, KvDType::F32);
    for case in &cases[..NUM_REFERENCE_CASES] {
        check_demo(&mut runner, case, LOGIT_TOLERANCE);
    }
}

/// Token for token, and the best logits after the prompt.
fn check_demo(runner: &mut Runner, case: &DemoCase, tolerance: f32) {
    let device = runner.model.backend_name();
    let mut sequence = Sequence::new(&case.prompt_ids);
    let mut logits = runner.catch_up(&mut sequence);
    let expected = &case.last_logits_of_prompt;
    for (&id, &logit) in expected.top_ids.iter().zip(&expected.top_logits) {
        let found = logits[id as usize];
        let is_close = (found - logit).abs() <= tolerance * (1.0 + logit.abs());
        assert!(is_close, "{}: logit of {id} is {found}, not {logit}, on {device}", case.name);
    }
    for (place, &id) in case.output_ids.iter().enumerate() {
        assert_eq!(argmax(&logits), id, "{}: output {place} on {device}", case.name);
        sequence.tokens.push(id);
        logits = runner.catch_up(&mut sequence);
    }
    if case.finish == "eos" {
        let ends = &runner.model.spec().eos_token_ids;
        assert!(ends.contains(&argmax(&logits)), "{}: no end on {device}", case.name);
    }
    runner.free(sequence);
}

#[test]
fn sharded_untied_model_equals_transformers() {
    let directory = golden("tiny-untied");
    let source = Source::Directory(&directory);
    assert!(!read_spec(source).unwrap().has_tied_head);
    let text = fs::read(golden("tiny.json")).unwrap();
    let cases = serde_json::from_slice::<Tiny>(&text).unwrap().cases;
    assert!(!cases.is_empty());
    for device in DEVICES {
        let mut runner = Runner::new(load(source, &options(device), &mut |_| {}).unwrap());
        for case in &cases {
            let mut sequence = Sequence::new(&case.prompt_ids);
            let logits = runner.catch_up(&mut sequence);
            runner.free(sequence);
            assert_eq!(logits.len(), case.logits.len());
            for (id, (found, expected)) in logits.iter().zip(&case.logits).enumerate() {
                let is_close = (found - expected).abs() <= LOGIT_TOLERANCE * (1.0 + expected.abs());
                let len = case.prompt_ids.len();
                assert!(is_close, "prompt of {len}, id {id}: {found}, not {expected}, {device:?}");
            }
        }
    }
}
