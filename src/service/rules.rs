//! The rules of a completion that hold for every dialect.

use crate::{
    completion::{CompletionRequest, SamplingParams},
    config::CompletionConfig,
    provider::ProviderError,
};

/// Checks what holds for every dialect; messages name the field and the rule.
pub(super) fn check(
    request: &CompletionRequest,
    limits: &CompletionConfig,
    vocab_size: u32,
) -> Result<(), ProviderError> {
    from_one_to("max_tokens", limits.max_tokens_limit, request.max_tokens.unwrap_or(1))?;
    from_one_to("num_choices", limits.num_choices_limit, request.num_choices)?;
    let (num_stops, limit) = (request.stop.as_ref().map_or(0, Vec::len), limits.num_stops_limit);
    if num_stops > limit {
        let message = format!("`stop` must have at most {limit} texts, got {num_stops}");
        return Err(ProviderError::invalid("stop", message));
    }
    check_sampling(&request.sampling)?;
    for (id, bias) in &request.sampling.logit_bias {
        if *id >= vocab_size || bias.is_nan() || bias.abs() > 100.0 {
            let message = format!(
                "`logit_bias` takes token ids below {vocab_size} and values from -100 to 100, got {id}: {bias}"
            );
            return Err(ProviderError::invalid("logit_bias", message));
        }
    }
    Ok(())
}

fn from_one_to(field: &'static str, limit: u32, value: u32) -> Result<(), ProviderError> {
    if (1..=limit).contains(&value) {
        return Ok(());
    }
    let message = format!("`{field}` must be from 1 to {limit}, got {value}");
    Err(ProviderError::invalid(field, message))
}

fn check_sampling(sampling: &SamplingParams) -> Result<(), ProviderError> {
    const UP_TO_ONE: Rule = Rule { least: Bound::Above(0.0), most: 1.0 };
    const PENALTY: Rule = Rule { least: Bound::From(-2.0), most: 2.0 };
    let rules = [
        ("temperature", sampling.temperature, Rule { least: Bound::From(0.0), most: 100.0 }),
        ("top_p", sampling.top_p, UP_TO_ONE),
        ("min_p", sampling.min_p, Rule { least: Bound::From(0.0), most: 1.0 }),
        ("repetition_penalty", sampling.repetition_penalty, Rule { most: 10.0, ..UP_TO_ONE }),
        ("presence_penalty", sampling.presence_penalty, PENALTY),
        ("frequency_penalty", sampling.frequency_penalty, PENALTY),
    ];
    for (field, value, rule) in rules {
        if !rule.holds(value) {
            let message = format!("`{field}` must be {rule}, got {value}");
            return Err(ProviderError::invalid(field, message));
        }
    }
    Ok(())
}

/// A range of numbers.
struct Rule {
    least: Bound,
    most: f32,
}

/// Where a range begins.
enum Bound {
    From(f32),
    Above(f32),
}

impl Rule {
    /// Returns whether `value` lies in the range; NaN lies in none.
    fn holds(&self, value: f32) -> bool {
        let is_enough = match self.least {
            Bound::From(least) => value >= least,
            Bound::Above(least) => value > least,
        };
        is_enough && value <= self.most
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.least {
            Bound::From(least) => write!(f, "from {least} to {}", self.most),
            Bound::Above(least) => write!(f, "above {least} and at most {}", self.most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_ends_and_no_nan() {
        let rows = [
            (Rule { least: Bound::From(0.0), most: 1.0 }, [true, true, true]),
            (Rule { least: Bound::Above(0.0), most: 1.0 }, [false, true, true]),
        ];
        for (rule, expected) in rows {
            assert_eq!([0.0, 0.5, 1.0].map(|value| rule.holds(value)), expected, "{rule}");
            for value in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
                assert!(!rule.holds(value), "{rule}: {value}");
            }
        }
    }

    #[test]
    fn every_sampling_rule_names_its_field() {
        let greedy = SamplingParams::greedy();
        let rows = [
            ("temperature", SamplingParams { temperature: -1.0, ..greedy.clone() }),
            ("top_p", SamplingParams { top_p: 0.0, ..greedy.clone() }),
            ("min_p", SamplingParams { min_p: f32::NAN, ..greedy.clone() }),
            ("repetition_penalty", SamplingParams { repetition_penalty: 0.0, ..greedy.clone() }),
            ("presence_penalty", SamplingParams { presence_penalty: 2.1, ..greedy.clone() }),
            ("frequency_penalty", SamplingParams { frequency_penalty: -2.1, ..greedy.clone() }),
        ];
        assert_eq!(check_sampling(&greedy), Ok(()));
        for (field, sampling) in rows {
            let error = check_sampling(&sampling).unwrap_err();
            assert_eq!(error.field, Some(field));
            assert!(error.message.contains(field), "{error}");
        }
    }
}
