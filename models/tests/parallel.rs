//! A model cut over several ranks computes what it does on one: logits within rounding, the same greedy tokens.

use std::fs;

use models::{
    DecoderSpec, Device, KvDType, LoadOptions, ModelError, Progress, Source, WeightFormat, load,
    load_weights, open_weights, random_weights, rank_spec, read_spec, weight_footprint,
};

use crate::{
    gguf_writer,
    support::{
        DEVICES, Folder, Runner, Sequence, argmax, mixed_spec, options, random_ids, random_model,
        tiny_spec,
    },
};

/// Tokens decoded after each prompt.
const NUM_DECODED: usize = 8;

fn on_ranks(num_ranks: usize, options: &LoadOptions) -> LoadOptions {
    LoadOptions { tensor_parallel_size: num_ranks, ..options.clone() }
}

/// Returns a spec that three ranks divide, with biases, a head of its own and a window.
fn spec_of_three() -> DecoderSpec {
    DecoderSpec {
        num_heads: 6,
        num_kv_heads: 3,
        ffn_size: 51,
        has_tied_head: false,
        windows: vec![None, Some(9)],
        ..tiny_spec()
    }
}

/// Greedy answers of all prompts, decoded together, and the logits of each turn.
struct Answers {
    tokens: Vec<Vec<u32>>,
    logits: Vec<Vec<f32>>,
}

/// Decodes prompts together, each in chunks of at most `chunk` tokens a step.
fn decode(runner: &mut Runner, prompts: &[Vec<u32>], chunk: usize) -> Answers {
    let mut sequences: Vec<Sequence> = prompts.iter().map(|prompt| Sequence::new(prompt)).collect();
    let mut answers = Answers { tokens: vec![Vec::new(); prompts.len()], logits: Vec::new() };
    while answers.tokens.iter().any(|tokens| tokens.len() < NUM_DECODED) {
        let mut parts = Vec::new();
        for sequence in &mut sequences {
            let count = sequence.num_missing().min(chunk);
            parts.push((sequence, count));
        }
        let rows = runner.step(&mut parts);
        for ((sequence, row), tokens) in sequences.iter_mut().zip(rows).zip(&mut answers.tokens) {
            if sequence.num_missing() == 0 {
                tokens.push(argmax(&row));
                sequence.tokens.push(argmax(&row));
                answers.logits.push(row);
            }
        }
    }
    for sequence in sequences {
        runner.free(sequence);
    }
    answers
}

/// Returns the norm of the difference, as a share of what was expected.
fn relative(found: &[f32], expected: &[f32]) -> f64 {
    let norm = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let difference: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
    norm(&difference) / norm(expected)
}

fn check(whole: &mut Runner, sharded: &mut Runner, limit: f64, what: &str) {
    for error in errors(whole, sharded, what) {
        // Written so that NaN fails it; exactly the same would mean that nothing was cut.
        assert!(error > 0.0 && error < limit, "{error}: {what}");
    }
}

/// Returns how far the logits of two models are apart, whose tokens must be the same, for prompts that are whole and in chunks.
fn errors(whole: &mut Runner, sharded: &mut Runner, what: &str) -> [f64; 2] {
    let vocab_size = whole.model.spec().vocab_size;
    assert_eq!(sharded.model.spec(), whole.model.spec(), "{what}");
    let prompts: Vec<Vec<u32>> =
        [1, 16, 37, 70].map(|len| random_ids(len, vocab_size, len as u64)).to_vec();
    [usize::MAX, 11].map(|chunk| {
        let expected = decode(whole, &prompts, chunk);
        let found = decode(sharded, &prompts, chunk);
        assert_eq!(found.tokens, expected.tokens, "chunks of {chunk}, {what}");
        relative(&found.logits.concat(), &expected.logits.concat())
    })
}

#[test]
fn the_demo_model_on_two_ranks_is_the_demo_model() {
    for device in DEVICES {
        let mut whole = Runner::new(load(Source::Demo, &options(device), &mut |_| {}).unwrap());
        let sharded = load(Source::Demo, &on_ranks(2, &options(device)), &mut |_| {}).unwrap();
        check(&mut whole, &mut Runner::new(sharded), 1e-4, &format!("{device:?}"));
    }
}

#[test]
fn a_random_model_on_three_ranks_is_itself() {
    let dense = spec_of_three();
    let mixed = DecoderSpec { mixture: mixed_spec().mixture, ..dense.clone() };
    let mixed = DecoderSpec { architecture: mixed_spec().architecture, ..mixed };
    for (spec, device) in [&dense, &mixed].into_iter().flat_map(|s| DEVICES.map(|d| (s, d))) {
        for weight_format in [WeightFormat::Stored, WeightFormat::F32] {
            let options = LoadOptions { weight_format, ..options(device) };
            let mut whole = random_model(spec, &options);
            let mut sharded = random_model(spec, &on_ranks(3, &options));
            check(&mut whole, &mut sharded, 1e-4, &format!("{device:?} {weight_format:?}"));
        }
    }
}

#[test]
fn a_mixture_is_cut_by_the_width_of_its_experts() {
    let spec = DecoderSpec { mixture: mixed_spec().mixture, ..spec_of_three() };
    let rank = rank_spec(&spec, 3).unwrap();
    assert_eq!(rank.mixture.unwrap().expert_size, 42 / 3);
    let mut narrow = spec.clone();
    narrow.mixture.as_mut().unwrap().expert_size = 40;
    assert_eq!(
        rank_spec(&narrow, 3).unwrap_err().to_string(),
        "`tensor_parallel_size` must be 1: a divisor of `num_key_value_heads` (3) and of `intermediate_size` (51) and of \
         `moe_intermediate_size` (40), got 3"
    );
}

/// Safetensors and GGUF files on a disk, plain numbers and integers.
#[test]
fn stored_types_are_cut_as_they_are_read() {
    let folder = Folder::new("parallel-safetensors");
    fs::write(folder.join("config.json"), models::demo::CONFIG_JSON).unwrap();
    fs::write(folder.join("model.safetensors"), models::demo::model_safetensors()).unwrap();
    let q8 = crate::gguf_model::file("parallel-q8", &gguf_writer::demo(&as_q8_0));
    let bf16 = crate::gguf_model::file("parallel-bf16", &gguf_writer::demo_bf16());
    for (folder, device) in [(&folder, Device::Cpu), (&bf16, Device::Cpu), (&q8, Device::Reference)]
    {
        let source = Source::Directory(folder);
        let mut whole = Runner::new(load(source, &options(device), &mut |_| {}).unwrap());
        let sharded = load(source, &on_ranks(2, &options(device)), &mut |_| {}).unwrap();
        check(&mut whole, &mut Runner::new(sharded), 1e-4, &format!("{source:?}"));
    }
    // On the CPU products with integers round the activations, to eight bits: one that is off by its last bit may round
    // the other way, which the layers above spread until all is as far off as rounding itself is. Single products are held
    // to more in the unit tests of `weights`.
    for (folder, weight_format) in
        [(&folder, WeightFormat::Int8), (&bf16, WeightFormat::Int8), (&q8, WeightFormat::Stored)]
    {
        let options = LoadOptions { weight_format, ..options(Device::Cpu) };
        let logits = [1, 2].map(|num_ranks| {
            let options = on_ranks(num_ranks, &options);
            let model = load(Source::Directory(folder), &options, &mut |_| {}).unwrap();
            Runner::new(model).catch_up(&mut Sequence::new(&random_ids(70, 8000, 3)))
        });
        let error = relative(&logits[1], &logits[0]);
        assert!(error > 0.0 && error < 3e-2, "{error}: {weight_format:?}");
    }
}

/// Eight bits with a scale for each 32, the number 8 of GGUF.
fn as_q8_0(_: usize, _: usize, values: &[f32]) -> (u32, Vec<u8>) {
    let mut bytes = Vec::new();
    for block in values.chunks_exact(32) {
        let largest = block.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        let scale = half::f16::from_f32(largest / 127.0);
        bytes.extend(scale.to_le_bytes());
        let code = |value: &f32| (value / scale.to_f32().max(f32::MIN_POSITIVE)).round() as i8;
        bytes.extend(block.iter().map(|value| code(value).cast_unsigned()));
    }
    (8, bytes)
}

/// The same model in sizes that a GPU's kernels take, on two ranks too.
#[cfg(feature = "cuda-emulator")]
fn for_a_gpu(spec: DecoderSpec) -> DecoderSpec {
    DecoderSpec {
        vocab_size: 112,
        hidden_size: 64,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 16,
        ffn_size: 96,
        ..spec
    }
}

/// Decodes by graphs and prefills by tiles, of experts of which each rank has a half.
#[cfg(feature = "cuda-emulator")]
#[test]
fn a_mixture_on_two_emulated_gpus_is_itself() {
    let mut spec = for_a_gpu(mixed_spec());
    spec.mixture.as_mut().unwrap().expert_size = 48;
    let options = LoadOptions { kv_dtype: KvDType::F16, ..options(Device::Emulated) };
    let mut whole = random_model(&spec, &options);
    let mut sharded = random_model(&spec, &on_ranks(2, &options));
    // Operands rounded to bf16 hide sums in another order, as a rule.
    let errors = errors(&mut whole, &mut sharded, "emulated mixture");
    assert!(errors.iter().all(|error| *error < 1e-2), "{errors:?}");
    let eager = LoadOptions { graphs: models::GraphMode::Eager, ..options.clone() };
    let mut eager = random_model(&spec, &eager);
    // Five sequences are padded to eight, by rows that no expert may see.
    let prompts: Vec<_> = (1..6).map(|len| random_ids(len, 112, len as u64)).collect();
    let [found, expected] =
        [&mut whole, &mut eager].map(|runner| decode(runner, &prompts, usize::MAX));
    assert!(found.logits == expected.logits, "replayed and launched");
}

/// A rank's columns are whole runs of codes.
#[cfg(feature = "cuda-emulator")]
#[test]
fn a_mixture_of_codes_on_two_emulated_gpus_is_itself() {
    let mut spec = DecoderSpec { ffn_size: 128, ..for_a_gpu(mixed_spec()) };
    spec.mixture.as_mut().unwrap().expert_size = 64;
    let options = LoadOptions { kv_dtype: KvDType::F16, ..options(Device::Emulated) };
    let options = LoadOptions { weight_format: WeightFormat::Int8, ..options };
    let mut whole = random_model(&spec, &options);
    let mut sharded = random_model(&spec, &on_ranks(2, &options));
    let errors = errors(&mut whole, &mut sharded, "emulated mixture of codes");
    assert!(errors.iter().all(|error| *error < 1e-2), "{errors:?}");
}

/// Graphs of decodes replay their sums, and tokens are chosen on the device.
#[cfg(feature = "cuda-emulator")]
#[test]
fn an_emulated_gpu_on_two_ranks_is_itself() {
    let spec = for_a_gpu(tiny_spec());
    let options = LoadOptions { kv_dtype: KvDType::F16, ..options(Device::Emulated) };
    let mut whole = random_model(&spec, &options);
    let mut sharded = random_model(&spec, &on_ranks(2, &options));
    check(&mut whole, &mut sharded, 1e-2, "emulated");
    let eager = LoadOptions { graphs: models::GraphMode::Eager, ..options };
    let mut eager = random_model(&spec, &on_ranks(2, &eager));
    let prompts = [random_ids(20, 112, 1), random_ids(5, 112, 2)];
    let found = decode(&mut sharded, &prompts, usize::MAX);
    let expected = decode(&mut eager, &prompts, usize::MAX);
    assert!(found.logits == expected.logits, "replayed and launched");

    let row = models::SampleRow {
        temperature: 0.8,
        top_p: 0.9,
        repetition_penalty: 1.1,
        bias: &[(7, 2.5)],
        seen: &[(3, 1), (9, 0)],
        point: 0x5555_5555_0000_0000,
        ..models::SampleRow::default()
    };
    let input = models::StepInput {
        token_ids: &[5, 6, 7],
        positions: &[0, 1, 2],
        slot_mapping: &[0, 1, 2],
        cu_seqlens_q: &[0, 3],
        context_lens: &[3],
        block_tables: &[0],
        max_blocks_per_seq: 1,
        logit_rows: &[2],
        adapters: &[],
    };
    assert!(sharded.model.has_sampler());
    let mut points = (0..8_u64).map(|part| models::SampleRow { point: part << 61, ..row });
    assert!(points.all(|row| {
        let [found, expected] = [&mut sharded, &mut whole].map(|runner| {
            runner.model.start_sample(&input, 112, &[row]).unwrap();
            runner.model.finish_sample().unwrap()
        });
        found == expected
    }));
}

#[test]
fn on_ranks_too_batched_is_alone() {
    let spec = spec_of_three();
    for device in DEVICES {
        let mut runner = random_model(&spec, &on_ranks(3, &options(device)));
        let prompts = [33, 4, 18].map(|len| random_ids(len, spec.vocab_size, len as u64));
        let together = decode(&mut runner, &prompts, usize::MAX);
        for (index, prompt) in prompts.iter().enumerate() {
            let alone = decode(&mut runner, std::slice::from_ref(prompt), 5);
            assert_eq!(alone.tokens[0], together.tokens[index], "{device:?}");
            let turns = together.logits.iter().skip(index).step_by(prompts.len());
            assert!(turns.eq(&alone.logits), "{device:?}");
        }
    }
}

#[test]
fn every_rank_reads_its_part_and_no_more() {
    let spec = read_spec(Source::Demo).unwrap();
    let weights = open_weights(Source::Demo).unwrap();
    let mut last = [Progress::default(); 2];
    for (num_ranks, last) in [1, 2].into_iter().zip(&mut last) {
        let mut report = |progress| *last = progress;
        let options = on_ranks(num_ranks, &options(Device::Cpu));
        load_weights(spec.clone(), &weights, &options, &mut report).unwrap();
        assert_eq!(last.bytes_done, last.bytes_total);
    }
    // Norms and the embedding are on both ranks, all else is cut in two. The demo is stored in bf16.
    let plan = models::arch::plan(&spec).unwrap();
    let is_whole = |name: &str| name.contains("norm") || name.contains("embed");
    let whole: usize = plan
        .tensors()
        .filter(|tensor| is_whole(&tensor.name))
        .map(models::weights::TensorSpec::num_elements)
        .sum();
    let whole_bytes = 2 * whole as u64;
    let [all, half] = last.map(|progress| progress.bytes_total);
    assert_eq!(half, (all - whole_bytes) / 2 + whole_bytes);

    let bytes = |num_ranks| {
        let format = WeightFormat::F32;
        weight_footprint(&spec, &weights, format, Device::Cpu, num_ranks).unwrap().num_bytes
    };
    assert_eq!(2 * bytes(2) - bytes(1), 4 * whole as u64);
    let rank = rank_spec(&spec, 2).unwrap();
    let kv_bytes = |spec: &DecoderSpec| models::kv_bytes_per_block(spec, 16, KvDType::F16);
    assert_eq!(2 * kv_bytes(&rank), kv_bytes(&spec));
}

#[test]
fn what_cannot_be_cut_is_refused_with_what_could() {
    let spec = spec_of_three();
    let weights = random_weights(&spec, 1).unwrap();
    let error = |num_ranks, weight_format| {
        let options = LoadOptions { weight_format, ..options(Device::Cpu) };
        let options = on_ranks(num_ranks, &options);
        let error = load_weights(spec.clone(), &weights, &options, &mut |_| {}).err().unwrap();
        assert!(matches!(error, ModelError::Option { option: "tensor_parallel_size", .. }));
        error.to_string()
    };
    for num_ranks in [0, 2, 4] {
        let message = error(num_ranks, WeightFormat::Stored);
        assert!(message.starts_with("`tensor_parallel_size` must be 1 or 3: "), "{message}");
        assert!(message.ends_with(&format!("got {num_ranks}")), "{message}");
    }
    let message = error(3, WeightFormat::Int8);
    assert!(message.contains("a multiple of the 32 of a block of int8, got 3"), "{message}");
    #[cfg(not(feature = "cuda"))]
    {
        let options = on_ranks(3, &options(Device::Cuda(4)));
        let error = load_weights(spec, &weights, &options, &mut |_| {}).err().unwrap();
        assert!(matches!(error, ModelError::NoDevice { .. }), "{error}");
    }
    let ranks = |device: Device| [0, 1].map(|rank| device.of_rank(rank));
    assert_eq!(ranks(Device::Cuda(4)), [Device::Cuda(4), Device::Cuda(5)]);
    assert_eq!(ranks(Device::Emulated), [Device::Emulated; 2]);
}
