//! What is taken from a completion before it is handed on: the settings of the steps.

use crate::{
    completion::Step,
    config::{
        Violation,
        raw::RawPostprocess,
        resolve::{broken, said},
    },
};

/// The word for all steps that are meant for a kind of code.
const ALL: &str = "all";

/// Those that stream come first, so that what they end is over early.
const COMPLETION: &[Step] = &[
    Step::SpecialTokens,
    Step::CodeFences,
    Step::Asterisks,
    Step::Repetition,
    Step::Scope,
    Step::SuffixOverlap,
    Step::Brackets,
    Step::CommentOnly,
    Step::RepeatedLines,
    Step::Unfinished,
    Step::Whitespace,
    Step::MinScore,
];

const GENERATION: &[Step] = &[
    Step::SpecialTokens,
    Step::CodeFences,
    Step::LeadingNewline,
    Step::Repetition,
    Step::RepeatedLines,
    Step::Whitespace,
    Step::MinScore,
];

/// Post-processing.
#[derive(Clone, Debug, PartialEq)]
pub struct PostprocessConfig {
    /// Steps for code at a cursor, in their order.
    pub completion: Vec<Step>,
    /// Steps for code that was asked for in words, in their order.
    pub generation: Vec<Step>,
    /// Whether they work on completions of the OpenAI dialect too.
    pub openai: bool,
    /// Least mean log-probability of a completion, by a model's name; without one for all others.
    pub min_scores: Vec<(Option<String>, f32)>,
}

impl PostprocessConfig {
    /// Returns the settings under which nothing is taken from anything.
    pub fn none() -> Self {
        Self {
            completion: Vec::new(),
            generation: Vec::new(),
            openai: false,
            min_scores: Vec::new(),
        }
    }

    /// Returns the least score of a model's completions, if there is one.
    pub fn min_score(&self, model: &str) -> Option<f32> {
        let of = |name: Option<&str>| {
            self.min_scores.iter().find(|(other, _)| other.as_deref() == name).map(|(_, min)| *min)
        };
        of(Some(model)).or_else(|| of(None))
    }
}

pub(super) fn resolve(raw: RawPostprocess) -> Result<PostprocessConfig, Violation> {
    let min_scores = said("postprocess.min_score", raw.min_score)?;
    Ok(PostprocessConfig {
        completion: steps("postprocess.completion", raw.completion, COMPLETION)?,
        generation: steps("postprocess.generation", raw.generation, GENERATION)?,
        openai: said("postprocess.openai", raw.openai)?,
        min_scores: min_scores.iter().map(|text| min_score(text)).collect::<Result<_, _>>()?,
    })
}

/// Returns the settings as they are typed.
pub(super) fn raw(config: &PostprocessConfig) -> RawPostprocess {
    let names = |steps: &[Step]| steps.iter().map(|step| step.name().to_owned()).collect();
    let score = |(model, min): &(Option<String>, f32)| match model {
        Some(model) => format!("{model}={min}"),
        None => min.to_string(),
    };
    RawPostprocess {
        completion: Some(names(&config.completion)),
        generation: Some(names(&config.generation)),
        openai: Some(config.openai),
        min_score: Some(config.min_scores.iter().map(score).collect()),
    }
}

fn steps(
    key: &'static str,
    names: Option<Vec<String>>,
    all: &[Step],
) -> Result<Vec<Step>, Violation> {
    let names = said(key, names)?;
    if names == [ALL] {
        return Ok(all.to_vec());
    }
    let mut steps = Vec::new();
    for name in names {
        let Some(step) = Step::by_name(&name) else {
            let likeness = |step: &Step| strsim::jaro_winkler(step.name(), &name);
            let nearest = Step::ALL.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
            let nearest = nearest.map_or("", Step::name);
            let rule = format!("a list of steps, of which the nearest is {nearest}");
            return Err(broken(key, &rule, name));
        };
        if steps.contains(&step) {
            return Err(broken(key, "a list that has no step twice", name));
        }
        steps.push(step);
    }
    Ok(steps)
}

/// Reads `SCORE` or `MODEL=SCORE`.
fn min_score(text: &str) -> Result<(Option<String>, f32), Violation> {
    let (model, score) = match text.rsplit_once('=') {
        Some((model, score)) => (Some(model.trim().to_owned()), score),
        None => (None, text),
    };
    let min: Option<f32> = score.trim().parse().ok();
    let rule = "log-probabilities, so at most 0, each alone or behind MODEL=";
    let min = min.filter(|min| min.is_finite() && *min <= 0.0);
    min.map(|min| (model, min)).ok_or_else(|| broken("postprocess.min_score", rule, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw_with(completion: &[&str], min_score: &[&str]) -> RawPostprocess {
        let texts = |texts: &[&str]| Some(texts.iter().map(|&text| text.to_owned()).collect());
        RawPostprocess {
            completion: texts(completion),
            generation: texts(&[ALL]),
            openai: Some(true),
            min_score: texts(min_score),
        }
    }

    #[test]
    fn steps_are_those_named_and_print_as_they_are_typed() {
        let typed = raw_with(&["whitespace", "scope"], &["-2", "a=b=-1.5"]);
        let config = resolve(typed.clone()).unwrap();
        assert_eq!(config.completion, [Step::Whitespace, Step::Scope]);
        assert_eq!(config.generation, GENERATION);
        assert_eq!((config.min_score("a=b"), config.min_score("c")), (Some(-1.5), Some(-2.0)));
        assert_eq!(resolve(raw(&config)).unwrap(), config);
        assert_eq!(PostprocessConfig::none().min_score("c"), None);
    }

    #[test]
    fn what_is_no_step_or_score_is_refused() {
        for (steps, scores, message) in [
            (["scopes"], ["-1"], "the nearest is scope, got scopes"),
            (["all"], ["1"], "at most 0"),
            (["all"], ["a=NaN"], "at most 0"),
            (["all"], ["a"], "at most 0"),
        ] {
            let error = resolve(raw_with(&steps, &scores)).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let error = resolve(raw_with(&["scope", "scope"], &[])).unwrap_err().to_string();
        assert!(error.contains("no step twice"), "{error}");
    }
}
