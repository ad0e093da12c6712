//! A sampler that sorts, and cases for those that do not.

use std::cmp::Ordering;

use crate::backend::{Backend, BackendError, DType, Vocabulary, WeightFormat};
use crate::metadata::{LAST_SAMPLED, SampleRow, StepInput};
use crate::selftest::Outcome;
use crate::selftest::rig::{Random, Stored, Use, download, upload};

/// Tokens that may be chosen; the rest of a row pads it. No multiple of anything.
const NUM_IDS: usize = 2999;
const VOCAB_SIZE: usize = 3008;

const GREEDY: SampleRow<'static> = SampleRow {
    temperature: 0.0,
    top_k: 0,
    top_p: 1.0,
    log_min_p: -50.0,
    repetition_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    bias: &[],
    seen: &[],
    point: 0,
};

/// Runs every case in one batch, and again with the rows in another order; then looks the tokens up that are only on the
/// device.
pub(super) fn sampling<B: Backend>(
    backend: &mut B,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    if !B::has_sampler() {
        return Ok(());
    }
    let drawn = SampleRow { temperature: 0.8, ..GREEDY };
    let points = [0, 1 << 62, 3 << 62, 0xfff << 52];
    let mut rows = vec![
        GREEDY,
        SampleRow { bias: &[(7, 30.0), (2998, 31.0)], ..GREEDY },
        SampleRow {
            // The second wins, for the prompt's tokens are not penalised as the output's are; else the third did.
            bias: &[(7, 30.0), (8, 60.0), (9, 25.0)],
            seen: &[(7, 2), (8, 0), (3001, 9)],
            repetition_penalty: 1.5,
            frequency_penalty: 4.0,
            presence_penalty: 30.0,
            ..GREEDY
        },
        SampleRow { top_k: 1, ..drawn },
    ];
    for point in points {
        rows.extend([
            SampleRow { point, ..drawn },
            SampleRow { point, top_k: 40, ..drawn },
            SampleRow { point, top_p: 0.4, ..drawn },
            SampleRow { point, log_min_p: -0.2, ..drawn },
            SampleRow { point, top_k: 300, top_p: 0.9, log_min_p: -0.9, temperature: 2.0, ..drawn },
        ]);
    }
    // Thousands of equal weights, each of which is little more than a word of 32 bits below the bits that count.
    rows.push(SampleRow { point: 0xfff << 52, top_p: 0.8, ..drawn });
    let mut logits = logits(rows.len());
    if let Some(last) = logits.last_mut() {
        last[..NUM_IDS].fill(-6.14);
        last[0] = 0.0;
    }
    let expected: Vec<u32> =
        rows.iter().zip(&logits).map(|(row, logits)| chosen(logits, row)).collect();
    let flat = logits.concat();
    for turn in [0, 5] {
        let mut turned = rows.clone();
        turned.rotate_left(turn);
        let mut flat = flat.clone();
        flat.rotate_left(turn * VOCAB_SIZE);
        let mut step = backend.step(rows.len(), rows.len(), 1)?;
        let mut tokens = sample(backend, &flat, &turned, &mut step)?;
        sink(Outcome {
            operator: "embed",
            case: format!("tokens sampled before, from the {turn}th on"),
            against: "the tokens that came back",
            error: if embeds_sampled(backend, &tokens, &mut step)? { 0.0 } else { 1.0 },
            limit: 0.0,
        });
        tokens.rotate_right(turn);
        for ((row, token), expected) in rows.iter().zip(&tokens).zip(&expected) {
            sink(Outcome {
                operator: "sample",
                case: format!("{row:?}"),
                against: "a sampler that sorts",
                error: if token == expected { 0.0 } else { 1.0 },
                limit: 0.0,
            });
        }
    }
    Ok(())
}

/// Samples a token for each row, as a step of decodes.
fn sample<B: Backend>(
    backend: &mut B,
    logits: &[f32],
    rows: &[SampleRow<'_>],
    step: &mut B::Step,
) -> Result<Vec<u32>, BackendError> {
    let mut buffer = upload(backend, logits, Use::Buffer)?;
    load_decodes(backend, &vec![0; rows.len()], step)?;
    backend.load_sampling(step, Vocabulary { size: VOCAB_SIZE, num_ids: NUM_IDS }, rows)?;
    backend.sample(step, &mut buffer)?;
    backend.send_sampled(step)?;
    let mut tokens = vec![0; rows.len()];
    backend.receive_sampled(&mut tokens)?;
    Ok(tokens)
}

/// Returns whether a step that names the sampled tokens by their rows, last first, embeds them.
fn embeds_sampled<B: Backend>(
    backend: &mut B,
    tokens: &[u32],
    step: &mut B::Step,
) -> Result<bool, BackendError> {
    const COLS: usize = 8;
    let values: Vec<f32> = (0..VOCAB_SIZE * COLS).map(|index| index as f32).collect();
    let table = Stored::new(&values, DType::F32);
    let table = backend.matrix(&[table.data(VOCAB_SIZE, COLS)], WeightFormat::Stored)?;
    let named: Vec<u32> = (0..tokens.len() as u32).rev().map(|row| LAST_SAMPLED | row).collect();
    load_decodes(backend, &named, step)?;
    let mut out = backend.buffer(tokens.len() * COLS)?;
    backend.embed(step, &table, &mut out)?;
    let rows = download(backend, &out, tokens.len() * COLS)?;
    let expected = tokens.iter().rev().map(|&token| (token as usize * COLS) as f32);
    Ok(rows.chunks(COLS).map(|row| row[0]).eq(expected))
}

/// Loads a step of a sequence for each token, all at their beginnings.
fn load_decodes<B: Backend>(
    backend: &mut B,
    token_ids: &[u32],
    step: &mut B::Step,
) -> Result<(), BackendError> {
    let len = token_ids.len() as u32;
    let counted: Vec<u32> = (0..=len).collect();
    let zeros = vec![0; token_ids.len()];
    let input = StepInput {
        token_ids,
        positions: &zeros,
        slot_mapping: &counted[..token_ids.len()],
        cu_seqlens_q: &counted,
        context_lens: &vec![1; token_ids.len()],
        block_tables: &zeros,
        max_blocks_per_seq: 1,
        logit_rows: &counted[..token_ids.len()],
        adapters: &[],
    };
    backend.load_step(&input, step)
}

/// Logits with equals, with some that are no numbers, and with larger ones where no token is.
fn logits(num_rows: usize) -> Vec<Vec<f32>> {
    let mut random = Random(17);
    let rows = (0..num_rows).map(|row| {
        let mut logits: Vec<f32> = (0..VOCAB_SIZE)
            // Eighths: many are equal.
            .map(|_| (random.value() * 40.0).round() / 8.0)
            .collect();
        logits[NUM_IDS..].fill(99.0);
        logits[row % NUM_IDS] = f32::NAN;
        logits[100 + row] = f32::NEG_INFINITY;
        logits
    });
    rows.collect()
}

/// Chooses a token by sorting all of them, with sums in f64. The order of work is that of `src/engine/sampler.rs`.
fn chosen(logits: &[f32], row: &SampleRow<'_>) -> u32 {
    let mut logits = logits[..NUM_IDS].to_vec();
    for &(id, bias) in row.bias {
        logits[id as usize] += bias;
    }
    for &(id, count) in row.seen {
        let Some(logit) = logits.get_mut(id as usize) else { continue };
        let factor = row.repetition_penalty;
        *logit = if *logit > 0.0 { *logit / factor } else { *logit * factor };
        if count > 0 {
            *logit -= row.presence_penalty + row.frequency_penalty * count as f32;
        }
    }
    let mut ranking: Vec<(u32, f32)> =
        (0..).zip(logits).filter(|(_, logit)| *logit > f32::NEG_INFINITY).collect();
    // Stable: equals stay in the order of their ids.
    ranking.sort_by(|(_, a), (_, b)| b.partial_cmp(a).unwrap_or(Ordering::Equal));
    let Some(&(likeliest, max)) = ranking.first() else { return 0 };
    if row.temperature <= 0.0 {
        return likeliest;
    }
    ranking.retain(|(_, logit)| *logit >= max + row.log_min_p);
    if row.top_k > 0 {
        ranking.truncate(row.top_k as usize);
    }
    let weight = |logit: f32| f64::from((logit - max) / row.temperature).exp();
    let total: f64 = ranking.iter().map(|(_, logit)| weight(*logit)).sum();
    let mut sum = 0.0;
    if row.top_p < 1.0 {
        let reaches = ranking.iter().position(|(_, logit)| {
            sum += weight(*logit);
            sum >= f64::from(row.top_p) * total
        });
        ranking.truncate(reaches.map_or(ranking.len(), |index| index + 1));
    }
    let total: f64 = ranking.iter().map(|(_, logit)| weight(*logit)).sum();
    ranking.sort_by_key(|(id, _)| *id);
    let point = row.point as f64 / 2.0_f64.powi(64) * total;
    let mut sum = 0.0;
    let drawn = ranking.iter().find(|(_, logit)| {
        sum += weight(*logit);
        sum > point
    });
    drawn.map_or(likeliest, |(id, _)| *id)
}
