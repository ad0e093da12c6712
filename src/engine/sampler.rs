//! From a row of logits to a token.
//!
//! The order of work is vLLM's (`v1/sample/sampler.py`): log-probabilities of the raw logits; logit bias; penalties;
//! temperature; min-p; top-k; top-p, over what the filters before it left; draw. Log-probabilities are thus the model's
//! own, whatever the request's settings do to its choice, as OpenAI's have been since bias no longer shows in them.
//!
//! - **The same seed and logits give the same token**, whatever the batch. Random numbers are not drawn in turn but
//!   looked up: the seed chooses a stream of `ChaCha8`, the token's place in the output the number. The draw goes through
//!   the tokens left in the order of their ids.
//! - **No sort of the vocabulary.** The best k and the nucleus of top-p are found by partition.
//! - **Any logits will do.** NaN counts as impossible, and where nothing is possible the lowest id is taken.

use std::cmp::Ordering;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

use crate::completion::SamplingParams;
use crate::engine::batch::SamplingRow;
use crate::engine::executor::{SampledToken, TokenLogprobs};

/// The least log-probability that is reported: OpenAI's word for "never", and JSON has no infinity.
const LOGPROB_MIN: f32 = -9999.0;

/// Numbers of the widest vector register in use, AVX-512's.
const NUM_LANES: usize = 16;

/// Tokens of the nucleus's border that are sorted rather than partitioned again.
const NUM_SORTED_MAX: usize = 64;

/// Chooses tokens; holds nothing between two of them but memory.
#[derive(Debug)]
pub struct Sampler {
    /// `[vocab_size]`: 0 for a token not seen, else 1 and the times that it stands in the output.
    num_seen: Vec<u32>,
    /// Logits before they were changed, the first change of a token first.
    raw: Vec<(u32, f32)>,
    candidates: Vec<Candidate>,
    ranking: Vec<Candidate>,
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
    /// Its probability as a share of the likeliest token's.
    weight: f32,
}

impl Candidate {
    /// Orders the likelier first, equals by their id. No candidate is NaN.
    fn by_rank(&self, other: &Self) -> Ordering {
        let by_logit = other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal);
        by_logit.then(self.id.cmp(&other.id))
    }
}

impl Sampler {
    /// Makes a sampler for rows of `vocab_size` logits.
    pub fn new(vocab_size: usize) -> Self {
        Self {
            num_seen: vec![0; vocab_size],
            raw: Vec::new(),
            candidates: Vec::new(),
            ranking: Vec::new(),
        }
    }

    /// Chooses a token. Bias and penalties are written into `logits`.
    ///
    /// # Shapes
    /// `logits`: `[vocab_size]`
    ///
    /// # Panics
    /// Where `logits` is empty or longer than the vocabulary.
    pub fn sample(&mut self, logits: &mut [f32], row: &SamplingRow) -> SampledToken {
        assert!(!logits.is_empty(), "a row has logits");
        assert!(logits.len() <= self.num_seen.len(), "a row is at most the vocabulary");
        let model = row.logprobs.map(|num_top| ModelLogprobs::new(logits, num_top as usize));
        self.raw.clear();
        self.add_bias(logits, &row.params);
        self.penalise(logits, row);
        let id = if row.params.temperature > 0.0 { self.draw(logits, row) } else { argmax(logits) };
        let raw = self.raw.iter().find(|(changed, _)| *changed == id);
        let logit = raw.map_or(logits[id as usize], |(_, logit)| *logit);
        SampledToken { id, logprob: model.map(|model| model.report(logit)) }
    }

    fn add_bias(&mut self, logits: &mut [f32], params: &SamplingParams) {
        for (id, bias) in &params.logit_bias {
            if let Some(logit) = logits.get_mut(*id as usize) {
                self.raw.push((*id, *logit));
                *logit += bias;
            }
        }
    }

    /// Applies the repetition penalty (Keskar et al. 2019, "CTRL") to the tokens of prompt and output, then OpenAI's
    /// frequency and presence penalties to those of the output.
    fn penalise(&mut self, logits: &mut [f32], row: &SamplingRow) {
        let params = &row.params;
        for (index, id) in row.history.iter().enumerate() {
            if let Some(num_seen) = self.num_seen.get_mut(*id as usize) {
                *num_seen = (*num_seen).max(1) + u32::from(index >= row.num_prompt_tokens);
            }
        }
        for id in &row.history {
            let Some(num_seen @ 1..) = self.num_seen.get_mut(*id as usize) else { continue };
            // Back to 0, so that a token is penalised once and the memory is clean for the next row.
            let num_output = std::mem::take(num_seen) - 1;
            let Some(logit) = logits.get_mut(*id as usize) else { continue };
            self.raw.push((*id, *logit));
            *logit = if *logit > 0.0 {
                *logit / params.repetition_penalty
            } else {
                *logit * params.repetition_penalty
            };
            if num_output > 0 {
                *logit -= params.presence_penalty + params.frequency_penalty * num_output as f32;
            }
        }
    }

    fn draw(&mut self, logits: &[f32], row: &SamplingRow) -> u32 {
        self.filter(logits, &row.params);
        let total = mass(&self.candidates);
        // Without a seed, any is as good; a fixed one keeps this a function of its arguments.
        let seed = row.params.seed.unwrap_or(0);
        let point = uniform(seed, row.num_generated) * total;
        let mut sum = 0.0;
        let drawn = self.candidates.iter().find(|candidate| {
            sum += f64::from(candidate.weight);
            sum > point
        });
        drawn.map_or_else(|| argmax(logits), |candidate| candidate.id)
    }

    /// Leaves in `candidates` what may be drawn, in the order of ids.
    fn filter(&mut self, logits: &[f32], params: &SamplingParams) {
        let max = max(logits);
        let least = max + log_share(params, logits.len());
        let mut last = Candidate { id: u32::MAX, logit: least, weight: 0.0 };
        if let Some(least) = keep_best(logits, params.top_k as usize, &mut self.ranking)
            && least.by_rank(&last).is_lt()
        {
            last = least;
        }
        self.candidates.clear();
        for (id, logit) in (0..).zip(logits.iter().copied()) {
            let candidate = Candidate { id, logit, weight: 0.0 };
            // False for NaN, and for all where the likeliest is impossible.
            if logit >= last.logit && logit > f32::NEG_INFINITY && candidate.by_rank(&last).is_le()
            {
                self.candidates.push(candidate);
            }
        }
        for candidate in &mut self.candidates {
            candidate.weight = (distance(candidate.logit, max) / params.temperature).exp();
        }
        if params.top_p < 1.0 {
            self.keep_nucleus(f64::from(params.top_p));
        }
    }

    fn keep_nucleus(&mut self, top_p: f64) {
        let total = mass(&self.candidates);
        // All tokens lighter than this weigh less together than what the nucleus leaves out, so none is part of it.
        let floor = ((1.0 - top_p) * total / self.candidates.len() as f64) as f32;
        let heavy = self.candidates.iter().filter(|candidate| candidate.weight >= floor);
        self.ranking.clear();
        self.ranking.extend(heavy);
        let num_kept = nucleus(&mut self.ranking, top_p * total);
        if let Some(last) = self.ranking[..num_kept].last() {
            self.candidates.retain(|candidate| candidate.by_rank(last).is_le());
        }
    }
}

/// Leaves the `num` likeliest tokens of a row in `best`, in no order, and returns the least likely of them; or `None`
/// where so many are not possible, or none is asked for.
///
/// Takes what is likelier than the least of the best so far, and drops the worse half when there are twice as many:
/// after a few rounds hardly any token passes.
fn keep_best(logits: &[f32], num: usize, best: &mut Vec<Candidate>) -> Option<Candidate> {
    best.clear();
    if num == 0 {
        return None;
    }
    let drop_worse = |best: &mut Vec<Candidate>| {
        let (_, least, _) = best.select_nth_unstable_by(num - 1, Candidate::by_rank);
        let least = *least;
        best.truncate(num);
        least
    };
    let mut border = f32::NEG_INFINITY;
    for (id, logit) in (0..).zip(logits.iter().copied()) {
        // False for NaN. Of equals the first stays.
        if logit > border {
            best.push(Candidate { id, logit, weight: 0.0 });
            if best.len() == 2 * num {
                border = drop_worse(best).logit;
            }
        }
    }
    (best.len() >= num).then(|| drop_worse(best))
}

/// Brings the fewest likeliest candidates whose weights reach `target` to the front, the least likely of them last, and
/// returns their number, at least 1 where there is a candidate.
///
/// Halves the range in which the border lies: all before `start` belongs to the nucleus, nothing from `end` does.
fn nucleus(ranking: &mut [Candidate], target: f64) -> usize {
    let (mut start, mut end, mut sum) = (0, ranking.len(), 0.0);
    while end - start > NUM_SORTED_MAX {
        let middle = start.midpoint(end);
        ranking[start..end].select_nth_unstable_by(middle - start, Candidate::by_rank);
        let half = mass(&ranking[start..middle]);
        if sum + half >= target {
            end = middle;
        } else {
            sum += half;
            start = middle;
        }
    }
    ranking[start..end].sort_unstable_by(Candidate::by_rank);
    let reaches = ranking[start..end].iter().position(|candidate| {
        sum += f64::from(candidate.weight);
        sum >= target
    });
    reaches.map_or(end, |index| start + index + 1)
}

/// The model's own distribution over a row.
struct ModelLogprobs {
    max: f32,
    log_total: f64,
    /// The likeliest tokens, falling.
    top: Vec<Candidate>,
}

impl ModelLogprobs {
    fn new(logits: &[f32], num_top: usize) -> Self {
        let max = max(logits);
        // `max` puts 0 in the place of NaN.
        let log_total = sum(logits, |logit| distance(*logit, max).exp().max(0.0)).ln();
        let mut top = Vec::new();
        keep_best(logits, num_top, &mut top);
        top.sort_unstable_by(Candidate::by_rank);
        Self { max, log_total, top }
    }

    /// Returns what to report of a token with this logit.
    fn report(&self, logit: f32) -> TokenLogprobs {
        let top = self.top.iter().map(|token| (token.id, self.logprob(token.logit))).collect();
        TokenLogprobs { logprob: self.logprob(logit), top }
    }

    fn logprob(&self, logit: f32) -> f32 {
        let logprob = f64::from(distance(logit, self.max)) - self.log_total;
        // `max` also takes the place of NaN.
        (logprob as f32).max(LOGPROB_MIN)
    }
}

fn mass(candidates: &[Candidate]) -> f64 {
    sum(candidates, |candidate| candidate.weight)
}

/// Sums the values of all items in lanes that do not wait for each other: they become vector instructions.
fn sum<T>(items: &[T], value: impl Fn(&T) -> f32) -> f64 {
    let mut lanes = [0.0; NUM_LANES];
    let (chunks, rest) = items.as_chunks::<NUM_LANES>();
    for chunk in chunks {
        for (lane, item) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value(item));
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|item| f64::from(value(item))).sum::<f64>()
}

/// Returns the largest logit; NaN counts for nothing.
fn max(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; NUM_LANES];
    let (chunks, rest) = logits.as_chunks::<NUM_LANES>();
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(*logit);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Returns how far a logit lies below the largest: at most 0, and 0 for the largest itself even where it is infinite.
fn distance(logit: f32, max: f32) -> f32 {
    if logit >= max { 0.0 } else { logit - max }
}

/// Returns the lowest id with the largest logit.
fn argmax(logits: &[f32]) -> u32 {
    let max = max(logits);
    logits.iter().position(|logit| *logit >= max).unwrap_or(0) as u32
}

/// Returns how far below the largest a logit may lie that min-p keeps.
///
/// Min-p is a share of the likeliest token's probability, hence a distance of logits: no exponential needed. Its floor is
/// what a random number of 53 bits cannot tell from nothing, for all the vocabulary together.
pub(super) fn log_share(params: &SamplingParams, num_logits: usize) -> f32 {
    let floor = -(f64::from(f64::MANTISSA_DIGITS).exp2() * num_logits as f64).ln();
    (f64::from(params.min_p).ln().max(floor) * f64::from(params.temperature)) as f32
}

/// Returns the 53 random bits that a seed gives to a place in the output, as the upper ones of 64.
pub(super) fn random_bits(seed: u64, place: u32) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(place));
    rng.next_u64() >> 11 << 11
}

/// Returns the number in [0, 1) that a seed gives to a place in the output, with 53 random bits.
fn uniform(seed: u64, place: u32) -> f64 {
    (random_bits(seed, place) >> 11) as f64 * (-53.0_f64).exp2()
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected numbers are exact")]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::sequence::SequenceId;

    const NAN: f32 = f32::NAN;
    const INF: f32 = f32::INFINITY;

    fn row(params: SamplingParams) -> SamplingRow {
        SamplingRow {
            sequence_id: SequenceId(0),
            params: Arc::new(params),
            num_generated: 0,
            history: Vec::new(),
            num_prompt_tokens: 0,
            logprobs: None,
        }
    }

    #[test]
    fn greedy_takes_the_likeliest_and_of_equals_the_lowest_id() {
        let rows: &[(&[f32], u32)] = &[
            (&[1.0, 3.0, 2.0], 1),
            (&[1.0, 3.0, 3.0], 1),
            (&[NAN, -3.0, NAN], 1),
            (&[0.0, INF, INF], 1),
            (&[-INF, -INF, -9.0], 2),
            (&[-INF, -INF], 0),
            (&[NAN, -INF], 1),
            (&[NAN, NAN], 0),
        ];
        for (logits, id) in rows {
            let token =
                Sampler::new(3).sample(&mut logits.to_vec(), &row(SamplingParams::greedy()));
            assert_eq!(token.id, *id, "{logits:?}");
        }
    }

    #[test]
    fn bias_and_penalties_change_the_logits_of_the_tokens_they_name() {
        let greedy = SamplingParams::greedy;
        // Prompt 0 1, output 1 2 2; logits 2, -2, 2, 2.
        let rows = [
            (greedy(), [2.0, -2.0, 2.0, 2.0]),
            (SamplingParams { repetition_penalty: 2.0, ..greedy() }, [1.0, -4.0, 1.0, 2.0]),
            (SamplingParams { presence_penalty: 0.5, ..greedy() }, [2.0, -2.5, 1.5, 2.0]),
            (SamplingParams { frequency_penalty: 0.5, ..greedy() }, [2.0, -2.5, 1.0, 2.0]),
            (
                SamplingParams { logit_bias: vec![(3, 1.0), (3, 1.0), (99, 5.0)], ..greedy() },
                [2.0, -2.0, 2.0, 4.0],
            ),
            (
                SamplingParams { logit_bias: vec![(1, 8.0)], repetition_penalty: 2.0, ..greedy() },
                [1.0, 3.0, 1.0, 2.0],
            ),
        ];
        let mut sampler = Sampler::new(4);
        for (params, expected) in rows {
            let mut logits = [2.0, -2.0, 2.0, 2.0];
            let history = vec![0, 1, 1, 2, 2, 99];
            sampler
                .sample(&mut logits, &SamplingRow { history, num_prompt_tokens: 2, ..row(params) });
            assert_eq!(logits, expected);
        }
    }

    #[test]
    fn the_place_in_the_output_chooses_the_random_number() {
        let numbers: Vec<f64> = (0..4).map(|place| uniform(9, place)).collect();
        assert_eq!(numbers[2], uniform(9, 2));
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        assert!((1..4).all(|place| numbers[place] != numbers[place - 1]));
        assert!(uniform(10, 0) != numbers[0]);
    }

    #[test]
    fn a_nucleus_is_the_fewest_that_reach_the_mass() {
        let candidates = |num: u32| -> Vec<Candidate> {
            (0..num).map(|id| Candidate { id, logit: (id * 7 % num) as f32, weight: 1.0 }).collect()
        };
        for (num, target, expected) in [(5, 0.0, 1), (5, 2.0, 2), (5, 2.1, 3), (999, 500.0, 500)] {
            let mut ranking = candidates(num);
            assert_eq!(nucleus(&mut ranking, target), expected);
            let least = ranking[..expected].iter().map(|kept| kept.logit as usize).min();
            assert_eq!(least, Some(num as usize - expected));
            assert_eq!(ranking[expected - 1].logit as usize, num as usize - expected);
        }
    }
}
