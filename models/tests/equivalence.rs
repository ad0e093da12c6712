//! Batched, chunked and scattered runs give the same bits as plain ones: what a continuous batch relies on.

use models::{DecoderSpec, Device, KvCacheSize, LoadOptions, Source, load};

use crate::support::{
    DEVICES, Runner, Sequence, argmax, mixed_spec, options, random_ids, random_model, tiny_spec,
};

/// Tokens decoded after each prompt.
const NUM_DECODED: usize = 6;

/// Every kind of attention that a spec can ask for, and a mixture of experts.
fn specs() -> Vec<DecoderSpec> {
    let tied = tiny_spec();
    let untied = DecoderSpec { has_tied_head: false, ..tied.clone() };
    let windowed = DecoderSpec { windows: vec![None, Some(9)], ..tied.clone() };
    let wide_head = DecoderSpec { head_dim: 16, ..tied.clone() };
    vec![tied, untied, windowed, wide_head, mixed_spec()]
}

fn prompts(vocab_size: usize) -> Vec<Vec<u32>> {
    let lens = [1, 2, 15, 16, 17, 33, 70];
    lens.iter().map(|&len| random_ids(len, vocab_size, len as u64)).collect()
}

/// Runs a prompt alone, whole, then greedily on; returns the logits of each token's turn.
fn run_alone(runner: &mut Runner, prompt: &[u32]) -> Vec<Vec<f32>> {
    let mut sequence = Sequence::new(prompt);
    let mut rows = Vec::new();
    for _ in 0..=NUM_DECODED {
        let logits = runner.catch_up(&mut sequence);
        sequence.tokens.push(argmax(&logits));
        rows.push(logits);
    }
    runner.free(sequence);
    rows
}

#[test]
fn batched_is_alone() {
    for device in DEVICES {
        for spec in specs() {
            let mut runner = random_model(&spec, &options(device));
            check_batched_is_alone(&mut runner, &prompts(spec.vocab_size), device);
        }
    }
}

#[test]
fn batched_is_alone_where_experts_are_of_eight_bits() {
    let spec = mixed_spec();
    let options = LoadOptions { weight_format: models::WeightFormat::Int8, ..options(Device::Cpu) };
    let mut runner = random_model(&spec, &options);
    check_batched_is_alone(&mut runner, &prompts(spec.vocab_size), Device::Cpu);
}

#[test]
fn batched_is_alone_on_the_demo_model() {
    let model = load(Source::Demo, &options(Device::Cpu), &mut |_| {}).unwrap();
    let prompts = prompts(model.spec().vocab_size);
    check_batched_is_alone(&mut Runner::new(model), &prompts, Device::Cpu);
}

fn check_batched_is_alone(runner: &mut Runner, prompts: &[Vec<u32>], device: Device) {
    let alone: Vec<Vec<Vec<f32>>> = prompts.iter().map(|p| run_alone(runner, p)).collect();
    let mut sequences: Vec<Sequence> = prompts.iter().map(|p| Sequence::new(p)).collect();
    // Prompts of all lengths in one step, then one token of each.
    for turn in 0..=NUM_DECODED {
        let mut parts: Vec<(&mut Sequence, usize)> = Vec::new();
        for sequence in &mut sequences {
            let count = sequence.num_missing();
            parts.push((sequence, count));
        }
        let rows = runner.step(&mut parts);
        for ((sequence, row), alone) in sequences.iter_mut().zip(&rows).zip(&alone) {
            let len = sequence.tokens.len();
            assert!(*row == alone[turn], "sequence of {len}, turn {turn}, {device:?}");
            sequence.tokens.push(argmax(row));
        }
    }
    for sequence in sequences {
        runner.free(sequence);
    }
}

#[test]
fn mixed_prefill_and_decode_is_alone() {
    for device in DEVICES {
        let spec = tiny_spec();
        let mut runner = random_model(&spec, &options(device));
        let [first, second] = [40, 25].map(|len| random_ids(len, spec.vocab_size, len as u64));
        let alone = [run_alone(&mut runner, &first), run_alone(&mut runner, &second)];

        let (mut old, mut new) = (Sequence::new(&first), Sequence::new(&second));
        // The second prompt comes in chunks of 7 while the first decodes.
        for (turn, new_count) in [0, 7, 7, 7, 4].into_iter().enumerate() {
            let old_count = old.num_missing();
            let rows = if new_count == 0 {
                runner.step(&mut [(&mut old, old_count)])
            } else {
                runner.step(&mut [(&mut old, old_count), (&mut new, new_count)])
            };
            assert!(rows[0] == alone[0][turn], "turn {turn}, {device:?}");
            old.tokens.push(argmax(&rows[0]));
            if new.num_missing() == 0 {
                assert!(rows[1] == alone[1][0], "second prompt, {device:?}");
            }
        }
        assert_eq!(new.num_missing(), 0);
    }
}

#[test]
fn chunked_is_whole() {
    for device in DEVICES {
        for spec in specs() {
            let mut runner = random_model(&spec, &options(device));
            check_chunked_is_whole(&mut runner, spec.vocab_size, device);
        }
    }
}

#[test]
fn chunked_is_whole_on_the_demo_model() {
    let model = load(Source::Demo, &options(Device::Cpu), &mut |_| {}).unwrap();
    let vocab_size = model.spec().vocab_size;
    check_chunked_is_whole(&mut Runner::new(model), vocab_size, Device::Cpu);
}

fn check_chunked_is_whole(runner: &mut Runner, vocab_size: usize, device: Device) {
    let prompt = random_ids(70, vocab_size, 5);
    let whole = run_alone(runner, &prompt);
    for chunk in [1, 3, 16, 69] {
        let mut sequence = Sequence::new(&prompt);
        let mut last = Vec::new();
        while sequence.num_missing() > 0 {
            let count = chunk.min(sequence.num_missing());
            last = runner.step(&mut [(&mut sequence, count)]).remove(0);
        }
        assert!(last == whole[0], "chunks of {chunk}, {device:?}");
        runner.free(sequence);
    }
}

/// Not to the bit: a backend may sum over a block before it sums over blocks.
#[test]
fn block_size_hardly_matters() {
    for device in DEVICES {
        let spec = tiny_spec();
        let prompt = random_ids(45, spec.vocab_size, 11);
        let run = |block_size| {
            let kv_cache = KvCacheSize::Blocks(256 / block_size);
            let options = LoadOptions { block_size, kv_cache, ..options(device) };
            run_alone(&mut random_model(&spec, &options), &prompt).remove(0)
        };
        let expected = run(16);
        for block_size in [1, 8, 32, 256] {
            check_close(
                &run(block_size),
                &expected,
                &format!("blocks of {block_size}, {device:?}"),
            );
        }
    }
}

#[test]
fn number_of_threads_does_not_matter() {
    for spec in [tiny_spec(), mixed_spec()] {
        let prompt = random_ids(45, spec.vocab_size, 13);
        let run = |num_threads| {
            let options = LoadOptions { num_threads: Some(num_threads), ..options(Device::Cpu) };
            run_alone(&mut random_model(&spec, &options), &prompt)
        };
        let expected = run(1);
        for num_threads in [2, 3, 5] {
            assert!(run(num_threads) == expected, "{num_threads} threads");
        }
    }
}

#[test]
fn what_lay_in_a_block_before_does_not_matter() {
    for device in DEVICES {
        let spec = tiny_spec();
        let options = LoadOptions { kv_cache: KvCacheSize::Blocks(5), ..options(device) };
        let mut runner = random_model(&spec, &options);
        let first = run_alone(&mut runner, &random_ids(60, spec.vocab_size, 1));
        run_alone(&mut runner, &random_ids(71, spec.vocab_size, 2));
        let again = run_alone(&mut runner, &random_ids(60, spec.vocab_size, 1));
        assert!(first == again, "{device:?}");
    }
}

#[test]
fn a_window_hides_what_is_behind_it() {
    for device in DEVICES {
        // Every layer sees 9 tokens, so two layers reach 17 back.
        let spec = DecoderSpec { windows: vec![Some(9); 2], ..tiny_spec() };
        let mut runner = random_model(&spec, &options(device));
        let prompt = random_ids(40, spec.vocab_size, 3);
        let mut changed = prompt.clone();
        changed[40 - 18] = (changed[40 - 18] + 1) % 101;
        let expected = run_alone(&mut runner, &prompt).remove(0);
        assert!(run_alone(&mut runner, &changed)[0] == expected, "{device:?}");
        changed[40 - 17] = (changed[40 - 17] + 1) % 101;
        assert!(run_alone(&mut runner, &changed)[0] != expected, "{device:?}");
    }
}

#[test]
fn backends_agree() {
    for spec in specs() {
        for weight_format in [models::WeightFormat::Stored, models::WeightFormat::F32] {
            let prompt = random_ids(50, spec.vocab_size, 17);
            let [cpu, reference] = DEVICES.map(|device| {
                let options = LoadOptions { weight_format, ..options(device) };
                run_alone(&mut random_model(&spec, &options), &prompt).remove(0)
            });
            check_close(&cpu, &reference, &format!("{weight_format:?}"));
        }
    }
}

/// The rows differ by no more than f32 sums in another order do.
fn check_close(found: &[f32], expected: &[f32], what: &str) {
    let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let difference: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
    let relative = norm(&difference) / norm(expected);
    // Written so that NaN fails it.
    assert!(relative < 1e-5, "{relative}: {what}");
}
