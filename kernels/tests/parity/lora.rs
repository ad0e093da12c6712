//! Adapters on the CPU: against the reference, and what cannot be added is refused.

use kernels::backend::{Backend, DType};
use kernels::cpu::CpuLora;
use kernels::lora::{Lora, LoraPair, LoraShape, NO_ADAPTER};
use kernels::metadata::StepInput;
use kernels::selftest::{Grid, Group, run};

use crate::rig::{Stored, cpus, upload};

const SHAPE: LoraShape = LoraShape { num_adapters: 2, max_cols: 10, max_rank: 8, max_rows: 6 };

#[test]
fn the_grid_of_the_selftest_passes_on_every_tier() {
    for mut backend in cpus() {
        let mut failed = Vec::new();
        run(&mut backend, Group::Adapters, Grid::Full, &mut |outcome| {
            if !outcome.is_passed() {
                failed.push(outcome);
            }
        })
        .unwrap();
        assert!(failed.is_empty(), "{}: {failed:#?}", backend.name());
    }
}

#[test]
fn what_cannot_be_added_is_refused() {
    let backend = &mut cpus().remove(0);
    let mut lora = CpuLora::new(backend, &SHAPE, 2).unwrap();
    let [plain, narrow] = [DType::F32, DType::Bf16].map(|dtype| Stored::new(&[0.5; 80], dtype));
    let up = Stored::new(&[0.5; 48], DType::F32);
    let pair = LoraPair { down: plain.data(8, 10), up: up.data(6, 8) };
    let wide = LoraPair { down: plain.data(7, 11), up: plain.data(6, 7) };
    let taller = LoraPair { down: plain.data(8, 10), up: plain.data(7, 8) };
    let other_rank = LoraPair { down: plain.data(8, 10), up: plain.data(6, 7) };
    let of_bf16 = LoraPair { down: narrow.data(8, 10), up: plain.data(6, 8) };
    let odd = LoraPair { down: plain.data(7, 10), up: plain.data(6, 7) };
    for (pairs, rule) in [
        (&[pair][..], "pairs of a product must be 2, got 1"),
        (&[pair, taller], "rows of each B must be 6, got 7"),
        (&[pair, other_rank], "columns of each B must be 8, got 7"),
        (&[pair, of_bf16], "adapters must be f32, got bf16"),
        (&[wide, wide], "columns of a product must be at most 10, got 11"),
        (&[taller, taller], "rows of a product must be at most 6, got 7"),
        (&[odd, odd], "must be a multiple of 8 and not 0, got 7"),
    ] {
        let error = lora.pairs(backend, pairs).unwrap_err().to_string();
        assert!(error.ends_with(rule), "{error}\n{rule}");
    }

    let mut group = |adapters: &[u32]| {
        let num_tokens = adapters.len().max(1);
        let counted: Vec<u32> = (0..num_tokens as u32).collect();
        let input = StepInput {
            token_ids: &vec![0; num_tokens],
            positions: &counted,
            slot_mapping: &counted,
            cu_seqlens_q: &[0, num_tokens as u32],
            context_lens: &[num_tokens as u32],
            block_tables: &[0],
            max_blocks_per_seq: 1,
            logit_rows: &[],
            adapters,
        };
        let mut step = backend.step(4, 1, 1).unwrap();
        backend.load_step(&input, &mut step).unwrap();
        lora.group(backend, &step).map_err(|error| error.to_string())
    };
    assert_eq!(group(&[]), Err("adapters: the step must have adapters, got none".to_owned()));
    assert_eq!(group(&[2]), Err("adapters: `adapters` must be below 2, got 2".to_owned()));
    assert!(group(&[0, 1, 0]).unwrap_err().ends_with("at most 2, got 3"));
    assert_eq!(group(&[1, NO_ADAPTER]), Ok(()));

    let pairs = lora.pairs(backend, &[pair, pair]).unwrap();
    let (short, x) = (upload(backend, &[0.0; 16]), upload(backend, &[0.0; 20]));
    let [mut out, mut too_short] = [12, 8].map(|len| upload(backend, &vec![0.0; len]));
    assert!(lora.add(backend, &short, &pairs, &mut out).is_err());
    assert!(lora.add(backend, &x, &pairs, &mut too_short).is_err());
    lora.add(backend, &x, &pairs, &mut out).unwrap();
}
