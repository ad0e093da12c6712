//! Limits of loading: memory, context, rows of logits.

use kernels::{cpu::CpuBackend, reference::ReferenceBackend};
use models::{
    DecoderSpec, Device, KvCacheSize, KvDType, LoadOptions, ModelError, Source, kv_bytes_per_block,
    kv_cache::num_blocks, load,
};

use crate::support::{
    DEVICES, OwnedStep, Runner, Sequence, options, random_ids, random_model, tiny_spec,
};

/// What is wrong with options that the demo model cannot be loaded with.
fn error_of(options: &LoadOptions) -> String {
    load(Source::Demo, options, &mut |_| {}).err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn a_budget_buys_whole_blocks() {
    let spec = tiny_spec();
    // Layers, heads, slots, f32; a key has 6 elements, its value is padded to 16.
    let per_block = 2 * 2 * 16 * 4 * (6 + 16);
    assert_eq!(kv_bytes_per_block(&spec, 16, KvDType::F32), per_block);
    assert_eq!(kv_bytes_per_block(&spec, 16, KvDType::F16), per_block / 2);
    let unpadded = 2 * 2 * 16 * 4 * (6 + 6);
    let size = KvCacheSize::Bytes(unpadded);
    assert_eq!(num_blocks::<ReferenceBackend>(&spec, 16, KvDType::F32, size).ok(), Some(1));
    let rows = [
        (KvCacheSize::Blocks(3), Some(3)),
        (KvCacheSize::Blocks(0), None),
        (KvCacheSize::Blocks(usize::MAX), None),
        (KvCacheSize::Bytes(per_block), Some(1)),
        (KvCacheSize::Bytes(per_block * 10 - 1), Some(9)),
        (KvCacheSize::Bytes(per_block - 1), None),
        (KvCacheSize::Bytes(u64::MAX), Some(u32::MAX as usize / 16)),
    ];
    for (size, expected) in rows {
        assert_eq!(
            num_blocks::<CpuBackend>(&spec, 16, KvDType::F32, size).ok(),
            expected,
            "{size:?}"
        );
    }
    for block_size in [0, 4097, usize::MAX] {
        assert!(
            num_blocks::<CpuBackend>(&spec, block_size, KvDType::F32, KvCacheSize::Blocks(1))
                .is_err()
        );
    }
}

#[test]
fn refuses_options_that_cannot_work() {
    let cpu = options(Device::Cpu);
    let rows = [
        (
            LoadOptions { block_size: 0, ..cpu.clone() },
            "`block_size` must be from 1 to 4096, got 0",
        ),
        (
            LoadOptions { max_num_tokens: 0, ..cpu.clone() },
            "`max_num_tokens` must be from 1 to 1048576, got 0",
        ),
        (
            LoadOptions { max_num_logit_rows: 1 << 21, ..cpu.clone() },
            "`max_num_logit_rows` must be from 1 to 1048576, got 2097152",
        ),
        (
            LoadOptions { context_tokens_max: Some(1 << 30), ..cpu.clone() },
            "`context_tokens_max` must be from 1 to the model's own context (",
        ),
        (
            LoadOptions { kv_cache: KvCacheSize::Bytes(9), ..cpu.clone() },
            "`kv_cache_bytes` must be at least a block (",
        ),
    ];
    for (options, expected) in rows {
        let error = error_of(&options);
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_cut_context_is_the_one_in_force() {
    for device in DEVICES {
        let options = LoadOptions { context_tokens_max: Some(20), ..options(device) };
        let mut runner = random_model(&tiny_spec(), &options);
        assert_eq!(runner.model.spec().max_position_embeddings, 20);
        let mut fits = Sequence::new(&random_ids(20, 101, 1));
        runner.catch_up(&mut fits);
        let step = one_sequence(&random_ids(21, 101, 1));
        assert!(matches!(runner.model.forward(&step.borrow(2)), Err(ModelError::Backend(_))));
    }
}

#[test]
fn refuses_more_rows_of_logits_than_were_allocated() {
    for device in DEVICES {
        let options = LoadOptions { max_num_logit_rows: 2, ..options(device) };
        let mut runner = random_model(&tiny_spec(), &options);
        let mut step = one_sequence(&random_ids(5, 101, 1));
        step.logit_rows = vec![0, 2];
        assert_eq!(runner.model.forward(&step.borrow(1)).unwrap().len(), 2 * 101);
        step.logit_rows = vec![0, 2, 4];
        let error = runner.model.forward(&step.borrow(1)).unwrap_err();
        assert!(matches!(error, ModelError::LogitRows { rows: 3, max: 2 }));
        step.logit_rows = Vec::new();
        assert_eq!(runner.model.forward(&step.borrow(1)).unwrap(), &[] as &[f32]);
    }
}

#[test]
fn every_row_of_a_prompt_has_the_logits_of_its_prefix() {
    for device in DEVICES {
        let mut runner = random_model(&tiny_spec(), &options(device));
        let ids = random_ids(8, 101, 9);
        let mut step = one_sequence(&ids);
        step.logit_rows = (0..8).collect();
        let rows = runner.model.forward(&step.borrow(1)).unwrap().to_vec();
        for (len, row) in (1..=8).zip(rows.chunks_exact(101)) {
            let mut prefix = Sequence::new(&ids[..len]);
            assert_eq!(runner.catch_up(&mut prefix), row, "{len} tokens, {device:?}");
            runner.free(prefix);
        }
    }
}

#[test]
fn refuses_steps_that_would_touch_foreign_memory() {
    for device in DEVICES {
        let mut runner = random_model(&tiny_spec(), &options(device));
        let good = one_sequence(&random_ids(20, 101, 1));
        assert!(runner.model.forward(&good.borrow(2)).is_ok());
        let edits: [fn(&mut OwnedStep); 8] = [
            |step| step.token_ids[3] = 101,
            |step| step.slot_mapping[3] = 160 * 16,
            |step| step.block_tables[1] = 160,
            |step| step.block_tables.truncate(1),
            |step| step.context_lens[0] = 33,
            |step| step.positions[3] = 256,
            |step| step.logit_rows[0] = 20,
            |step| step.cu_seqlens_q[1] = 19,
        ];
        for (index, edit) in edits.iter().enumerate() {
            let mut step = good.clone();
            edit(&mut step);
            let error = runner.model.forward(&step.borrow(2));
            assert!(matches!(error, Err(ModelError::Backend(_))), "edit {index}, {device:?}");
        }
    }
}

#[test]
fn a_spec_that_breaks_a_rule_is_an_error_and_not_a_panic() {
    let good = tiny_spec();
    let rows = [
        DecoderSpec { architecture: "Unknown", ..good.clone() },
        DecoderSpec { num_kv_heads: 4, ..good.clone() },
        DecoderSpec { windows: Vec::new(), ..good.clone() },
        DecoderSpec { head_dim: 5, ..good.clone() },
        DecoderSpec { norm_eps: f32::NAN, ..good.clone() },
        DecoderSpec { hidden_size: usize::MAX, ..good },
    ];
    for spec in rows {
        let error = models::random_weights(&spec, 1).unwrap_err();
        assert!(matches!(error, ModelError::Config(_)), "{error}");
    }
}

#[test]
fn the_demo_model_loads_with_what_the_trait_promises() {
    let model = load(Source::Demo, &options(Device::Cpu), &mut |_| {}).unwrap();
    assert_eq!((model.num_blocks(), model.block_size()), (160, 16));
    assert!(model.backend_name().starts_with("cpu"), "{}", model.backend_name());
    let logits = Runner::new(model).catch_up(&mut Sequence::new(&[0]));
    assert!(logits.iter().all(|logit| logit.is_finite()));
}

/// One sequence in the first blocks.
fn one_sequence(ids: &[u32]) -> OwnedStep {
    let len = ids.len() as u32;
    OwnedStep {
        token_ids: ids.to_vec(),
        positions: (0..len).collect(),
        slot_mapping: (0..len).collect(),
        cu_seqlens_q: vec![0, len],
        context_lens: vec![len],
        block_tables: (0..len.div_ceil(16)).collect(),
        logit_rows: vec![len - 1],
        adapters: Vec::new(),
    }
}
