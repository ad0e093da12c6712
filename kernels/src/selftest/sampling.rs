//! A sampler that sorts, and cases for those that do not.

use std::cmp::Ordering;

use crate::backend::{Backend, BackendError};
use crate::metadata::SampleRow;
use crate::selftest::Outcome;
use crate::selftest::rig::{Random, Use, upload};

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

/// Runs every case in one batch, and again with the rows in another order.
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
    let logits = logits(rows.len());
    let expected: Vec<u32> =
        rows.iter().zip(&logits).map(|(row, logits)| chosen(logits, row)).collect();
    let flat = logits.concat();
    for turn in [0, 5] {
        let mut turned = rows.clone();
        turned.rotate_left(turn);
        let mut flat = flat.clone();
        flat.rotate_left(turn * VOCAB_SIZE);
        let mut buffer = upload(backend, &flat, Use::Buffer)?;
        let mut tokens = backend.sample(&mut buffer, VOCAB_SIZE, NUM_IDS, &turned)?;
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
