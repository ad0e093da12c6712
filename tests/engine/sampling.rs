//! The sampler against a plain one that sorts the whole vocabulary, and its draws against the probabilities.

use std::sync::Arc;

use lacuna::completion::SamplingParams;
use lacuna::engine::sequence::SequenceId;
use lacuna::engine::{Sampler, SamplingRow};
use proptest::prelude::*;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};

fn row(params: SamplingParams, seed: u64, num_generated: u32) -> SamplingRow {
    SamplingRow {
        sequence_id: SequenceId(0),
        params: Arc::new(SamplingParams { seed: Some(seed), ..params }),
        num_generated,
        history: Vec::new(),
        num_prompt_tokens: 0,
        logprobs: None,
    }
}

/// What may be drawn, with weights, in the order of ids; and the smallest margin by which a token is in or out.
fn plain_filter(logits: &[f32], params: &SamplingParams) -> (Vec<(u32, f64)>, f64) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| (f64::from(logit - max) / f64::from(params.temperature)).exp();
    let mut ranking: Vec<(u32, f64)> =
        (0..).zip(logits).map(|(id, logit)| (id, weight(*logit))).collect();
    ranking.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut margin = f64::INFINITY;
    let mut is_above = |value: f64, border: f64| {
        margin = margin.min((value - border).abs() / border);
        value > border
    };
    ranking.retain(|(_, weight)| params.min_p == 0.0 || is_above(*weight, f64::from(params.min_p)));
    if params.top_k > 0 {
        ranking.truncate(params.top_k as usize);
    }
    let total: f64 = ranking.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0.0;
    ranking.retain(|(_, weight)| {
        let is_out = params.top_p < 1.0 && is_above(sum, f64::from(params.top_p) * total);
        sum += weight;
        !is_out
    });
    ranking.sort_by_key(|(id, _)| *id);
    (ranking, margin)
}

/// The token drawn, and the margin to its neighbours.
fn plain_draw(weights: &[(u32, f64)], seed: u64, place: u32) -> (u32, f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(place));
    let uniform = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    let (mut start, point) = (0.0, uniform * total);
    for (id, weight) in weights {
        if start + weight > point {
            return (*id, (point - start).min(start + weight - point) / total);
        }
        start += weight;
    }
    unreachable!("a point lies below the total")
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    let top_k = prop_oneof![Just(0), 1..40_u32, Just(1000)];
    let top_p = prop_oneof![Just(1.0_f32), 0.01..1.0_f32];
    let min_p = prop_oneof![Just(0.0_f32), 0.0..1.0_f32];
    (0.1..2.0_f32, top_k, top_p, min_p).prop_map(|(temperature, top_k, top_p, min_p)| {
        SamplingParams { temperature, top_k, top_p, min_p, ..SamplingParams::greedy() }
    })
}

/// Logits in steps of a quarter, so that ties are common.
fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec((-40..40_i32).prop_map(|quarters| quarters as f32 / 4.0), 1..400)
}

proptest! {
    #[test]
    fn draws_as_a_sampler_that_sorts_everything(
        logits in any_logits(),
        params in any_params(),
        seed: u64,
        place in 0..1000_u32,
    ) {
        let (weights, filter_margin) = plain_filter(&logits, &params);
        let (expected, draw_margin) = plain_draw(&weights, seed, place);
        // The sampler weighs in single precision: what is nearer than that is not for this test to decide.
        prop_assume!(filter_margin > 1e-5 && draw_margin > 1e-5);
        // One that has worked before, to find what it may have kept.
        let mut sampler = Sampler::new(logits.len());
        sampler.sample(&mut logits.clone(), &row(params.clone(), seed ^ 1, place));
        let token = sampler.sample(&mut logits.clone(), &row(params, seed, place));
        prop_assert_eq!(token.id, expected);
    }

    #[test]
    fn reports_the_models_own_probabilities(
        logits in any_logits(),
        params in any_params(),
        bias in prop::collection::vec((0..400_u32, -9.0..9.0_f32), 0..4),
        history in prop::collection::vec(0..400_u32, 0..40),
        num_top in 0..9_u32,
    ) {
        let penalties = SamplingParams { repetition_penalty: 1.5, logit_bias: bias, ..params };
        let row = SamplingRow { logprobs: Some(num_top), history, ..row(penalties, 1, 2) };
        let token = Sampler::new(400).sample(&mut logits.clone(), &row);
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let mut ranking: Vec<(u32, f64)> = (0..)
            .zip(&logits)
            .map(|(id, logit)| (id, f64::from(*logit) - total.ln()))
            .collect();
        let own = ranking[token.id as usize].1;
        ranking.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranking.truncate(num_top as usize);
        let logprob = token.logprob.unwrap();
        prop_assert!((f64::from(logprob.logprob) - own).abs() < 1e-5);
        prop_assert_eq!(logprob.top.len(), ranking.len());
        for (reported, expected) in logprob.top.iter().zip(ranking) {
            prop_assert_eq!(reported.0, expected.0);
            prop_assert!((f64::from(reported.1) - expected.1).abs() < 1e-5);
        }
    }

    #[test]
    fn any_bits_are_logits(
        bits in prop::collection::vec(any::<u32>(), 1..80),
        specials in prop::collection::vec((0..80_usize, 0..4_usize), 0..9),
        params in any_params(),
        seed: u64,
    ) {
        let mut logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for (place, special) in specials {
            let place = place % logits.len();
            logits[place] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX][special];
        }
        let row = SamplingRow { logprobs: Some(3), ..row(params, seed, 0) };
        let token = Sampler::new(80).sample(&mut logits.clone(), &row);
        let chosen = logits[token.id as usize];
        let is_possible = |logit: f32| logit > f32::NEG_INFINITY;
        prop_assert!(is_possible(chosen) || !logits.iter().any(|logit| is_possible(*logit)));
        let logprob = token.logprob.unwrap();
        prop_assert!((-9999.0..=0.0).contains(&logprob.logprob), "{}", logprob.logprob);
    }
}

#[test]
fn draws_are_as_frequent_as_their_probabilities() {
    let logits: Vec<f32> = (0..12).map(|id| (id * 7 % 12) as f32 / 4.0).collect();
    for params in [
        SamplingParams { temperature: 1.0, ..SamplingParams::greedy() },
        SamplingParams { temperature: 0.5, top_p: 0.9, ..SamplingParams::greedy() },
        SamplingParams { temperature: 1.5, top_k: 6, min_p: 0.1, ..SamplingParams::greedy() },
    ] {
        let (weights, _) = plain_filter(&logits, &params);
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let num_draws = 20_000;
        let mut counts = vec![0.0_f64; logits.len()];
        let mut sampler = Sampler::new(logits.len());
        for draw in 0..num_draws {
            // Seeds and places both move on, as over choices and tokens.
            let row = row(params.clone(), u64::from(draw % 100), draw / 100);
            counts[sampler.sample(&mut logits.clone(), &row).id as usize] += 1.0;
        }
        let chi_squared: f64 = weights
            .iter()
            .map(|(id, weight)| {
                let expected = weight / total * f64::from(num_draws);
                (counts[*id as usize] - expected).powi(2) / expected
            })
            .sum();
        for (id, count) in (0..).zip(&counts) {
            let is_kept = weights.iter().any(|(kept, _)| *kept == id);
            assert!(is_kept || *count < 1.0, "drew {id}, which was filtered out");
        }
        // 11 degrees of freedom: one fair sampler in 10 000 passes 37.
        assert!(chi_squared < 37.0, "{params:?}: {chi_squared}");
    }
}
