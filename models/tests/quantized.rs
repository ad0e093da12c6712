//! Quantised checkpoints against Hugging Face transformers, which was given the weights that they stand for.
//!
//! `tests/golden/make_quantized.py` makes the files and says with which versions.

use std::{fs, path::PathBuf};

use kernels::backend::DType;
use models::{
    Device, KvDType, LoadOptions, Source, WeightFormat, load, open_weights, read_spec,
    weight_footprint,
};
use serde::Deserialize;

use crate::{
    architectures::Probe,
    support::{Folder, Runner, Sequence, argmax, options},
};

/// Relative norm of all logits on the reference, which rounds nothing.
const EXACT_LIMIT: f64 = 1e-5;

/// The same on a CPU, which rounds activations to eight bits for products of integers: at most 7e-2 when this was set, for one layer of large weights. Codes
/// in another order are off by 1.
const CPU_LIMIT: f64 = 1e-1;

/// The same on a GPU, which rounds operands to bf16 and keys and values to f16.
#[cfg(feature = "cuda-emulator")]
const GPU_LIMIT: f64 = 3e-2;

#[derive(Debug, Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    prompts: Vec<Probe>,
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/quantized").join(name)
}

fn cases() -> Vec<Case> {
    let text = fs::read(folder("golden.json")).unwrap();
    serde_json::from_slice::<Golden>(&text).unwrap().cases
}

fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = || found.iter().zip(expected).map(|(&f, &e)| (f64::from(f), f64::from(e)));
    let distance: f64 = pairs().map(|(found, expected)| (found - expected).powi(2)).sum();
    let norm: f64 = pairs().map(|(_, expected)| expected.powi(2)).sum();
    (distance / norm).sqrt()
}

/// Holds the logits of every prompt to transformers'; where nothing is rounded, the tokens that follow too.
fn check(options: &LoadOptions, limit_of: impl Fn(&str) -> f64) {
    let cases = cases();
    assert_eq!(cases.len(), 7);
    for case in &cases {
        let (folder, limit) = (folder(&case.name), limit_of(&case.name));
        let model = load(Source::Directory(&folder), options, &mut |_| {}).unwrap();
        let mut runner = Runner::new(model);
        for prompt in &case.prompts {
            let mut sequence = Sequence::new(&prompt.prompt_ids);
            let mut logits = runner.catch_up(&mut sequence);
            let error = relative_error(&logits, &prompt.logits);
            assert!(
                error <= limit,
                "{}: {error:.2e} on {}",
                case.name,
                runner.model.backend_name()
            );
            for &id in prompt.greedy_ids.iter().take_while(|_| limit <= EXACT_LIMIT) {
                assert_eq!(argmax(&logits), id, "{}", case.name);
                sequence.tokens.push(id);
                logits = runner.catch_up(&mut sequence);
            }
            runner.free(sequence);
        }
    }
}

#[test]
fn what_codes_stand_for_equals_transformers() {
    check(&options(Device::Reference), |_| EXACT_LIMIT);
}

#[test]
fn codes_on_the_cpu_equal_transformers_but_for_rounding() {
    // What is multiplied with numbers of eight bits is not rounded.
    let limit_of = |name: &str| if name.starts_with("fp8") { EXACT_LIMIT } else { CPU_LIMIT };
    check(&options(Device::Cpu), limit_of);
}

#[cfg(feature = "cuda-emulator")]
#[test]
fn codes_on_the_emulated_gpu_equal_transformers_but_for_rounding() {
    let options = LoadOptions { kv_dtype: KvDType::F16, ..options(Device::Emulated) };
    check(&options, |_| GPU_LIMIT);
}

#[test]
fn two_ranks_have_parts_of_the_same_codes() {
    let two = LoadOptions { tensor_parallel_size: 2, ..options(Device::Reference) };
    for name in ["awq", "gptq", "gptq-v2-symmetric"] {
        let folder = folder(name);
        let [whole, halves] = [&options(Device::Reference), &two].map(|options| {
            let model = load(Source::Directory(&folder), options, &mut |_| {}).unwrap();
            Runner::new(model).catch_up(&mut Sequence::new(&[3, 1, 4, 1, 5, 9, 2, 6]))
        });
        let error = relative_error(&halves, &whole);
        assert!(error <= EXACT_LIMIT, "{name}: {error:.2e}");
    }
    // Columns of fp8 are in blocks of 128, and this feed-forward part has one.
    let error = load(Source::Directory(&folder("fp8-rows")), &two, &mut |_| {}).err().unwrap();
    assert!(error.to_string().contains("the 128 of a block of f8_e4m3"), "{error}");
}

#[test]
fn a_form_that_no_matrix_is_stored_in_is_refused() {
    let folder = Folder::new("form-of-no-matrix");
    let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("demo");
    fs::copy(demo.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    let config = fs::read(demo.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    for (method, name) in
        [("awq", "awq"), ("gptq", "gptq"), ("fp8", "fp8"), ("compressed-tensors", "fp8")]
    {
        config["quantization_config"] = serde_json::json!({ "quant_method": method, "bits": 4 });
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let error = open_weights(Source::Directory(&folder)).err().unwrap().to_string();
        let begin =
            "config.json: `quantization_config` must be left out where no matrix is stored so";
        assert!(error.starts_with(begin) && error.ends_with(&format!("got {name}")), "{error}");
    }
}

#[test]
fn memory_is_told_by_what_the_codes_become() {
    let rows = [
        ("awq", DType::Q4_1, Device::Cpu),
        ("gptq", DType::Q4_1, Device::Cpu),
        ("gptq-v2-symmetric", DType::Q4_0, Device::Cpu),
        ("fp8-rows", DType::F8, Device::Cpu),
        ("fp8-rows", DType::F8, Device::Cuda(0)),
        ("awq-mixture", DType::Q4_1, Device::Cpu),
        ("fp8-mixture", DType::F8, Device::Cpu),
    ];
    for (name, dtype, device) in rows {
        let folder = folder(name);
        let source = Source::Directory(&folder);
        let (spec, weights) = (read_spec(source).unwrap(), open_weights(source).unwrap());
        let format = WeightFormat::Stored;
        let found = weight_footprint(&spec, &weights, format, device, 1).unwrap();
        assert!(found.types.contains(dtype.name()), "{name}: {:?}", found.types);
    }
}

#[test]
fn experts_that_a_gpu_does_not_compute_are_refused_before_anything_is_loaded() {
    let spec = crate::support::mixed_spec();
    let weights = models::random_weights(&spec, 7).unwrap();
    let footprint = |format, device| weight_footprint(&spec, &weights, format, device, 1);
    for format in [WeightFormat::Stored, WeightFormat::Int8, WeightFormat::Fp8] {
        assert!(footprint(format, Device::Cuda(0)).is_ok(), "{format:?}");
    }
    assert!(footprint(WeightFormat::F32, Device::Cpu).is_ok());
    let error = footprint(WeightFormat::F32, Device::Cuda(0)).unwrap_err().to_string();
    assert!(error.starts_with("experts must be bf16 or codes on a GPU, got f32"), "{error}");
}
