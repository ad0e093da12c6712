//! What is taken from a completion before it is handed on: the settings of the steps.

use crate::{
    completion::Step,
    config::{
        Violation,
        raw::RawPostprocess,
        resolve::{broken, said},
    },
};

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

/// Checks the settings; `models` are the names that answers come from.
pub(super) fn resolve(
    raw: RawPostprocess,
    models: &[&str],
) -> Result<PostprocessConfig, Violation> {
    let min_scores = said("postprocess.min_score", raw.min_score)?;
    Ok(PostprocessConfig {
        completion: steps("postprocess.completion", raw.completion, COMPLETION)?,
        generation: steps("postprocess.generation", raw.generation, GENERATION)?,
        openai: said("postprocess.openai", raw.openai)?,
        min_scores: min_scores
            .iter()
            .map(|text| min_score(text, models))
            .collect::<Result<_, _>>()?,
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
    // No word means all where somebody asks; who sets a list without one wants none.
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let steps = Step::chosen(names.iter().map(|name| name.trim()), all);
    steps.map_err(|error| broken(key, &error.rule(), error.word()))
}

/// Reads `SCORE` or `MODEL=SCORE`.
fn min_score(text: &str, models: &[&str]) -> Result<(Option<String>, f32), Violation> {
    let (model, score) = match text.rsplit_once('=') {
        Some((model, score)) => (Some(model.trim().to_owned()), score),
        None => (None, text),
    };
    if let Some(model) = model.as_deref().filter(|model| !models.contains(model)) {
        let likeness = |name: &&&str| strsim::jaro_winkler(name, model);
        let nearest = models.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let nearest = nearest.copied().unwrap_or_default();
        let rule =
            format!("of models and adapters by their names, of which the nearest is {nearest}");
        return Err(broken("postprocess.min_score", &rule, model));
    }
    let min: Option<f32> = score.trim().parse().ok();
    let rule = "log-probabilities, so at most 0, each alone or behind MODEL=";
    let min = min.filter(|min| min.is_finite() && *min <= 0.0);
    min.map(|min| (model, min)).ok_or_else(|| broken("postprocess.min_score", rule, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "all";
    const MODELS: [&str; 2] = ["a", "a=b"];

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
        let config = resolve(typed.clone(), &MODELS).unwrap();
        assert_eq!(config.completion, [Step::Whitespace, Step::Scope]);
        assert_eq!(config.generation, GENERATION);
        assert_eq!((config.min_score("a=b"), config.min_score("c")), (Some(-1.5), Some(-2.0)));
        assert_eq!(resolve(raw(&config), &MODELS).unwrap(), config);
        assert_eq!(PostprocessConfig::none().min_score("c"), None);
    }

    #[test]
    fn all_may_be_without_some_and_none_is_a_choice() {
        let steps = |names: &[&str]| resolve(raw_with(names, &[]), &MODELS).unwrap().completion;
        assert_eq!(steps(&[]), []);
        assert_eq!(steps(&["none"]), []);
        assert_eq!(steps(&["all"]), COMPLETION);
        let without = steps(&["all", "-scope", " -brackets"]);
        assert_eq!(without.len(), COMPLETION.len() - 2);
        assert!(!without.contains(&Step::Scope) && !without.contains(&Step::Brackets));
        for (names, message) in [
            (
                &["all", "-leading_newline"][..],
                "steps that it has, each once, got -leading_newline",
            ),
            (&["all", "-scope", "-scope"], "each once"),
            (&["all", "scope"], "-NAME for each step left out, got scope"),
            (&["scope", "-scope"], "-NAME"),
            (&["none", "scope"], "-NAME"),
            (&["all", "-scopes"], "the nearest is scope, got scopes"),
        ] {
            let error = resolve(raw_with(names, &[]), &MODELS).unwrap_err().to_string();
            assert!(error.contains(message), "{names:?}: {error}");
        }
    }

    #[test]
    fn what_is_no_step_or_score_is_refused() {
        for (steps, scores, message) in [
            (["scopes"], ["-1"], "the nearest is scope, got scopes"),
            (["all"], ["1"], "at most 0"),
            (["all"], ["a=NaN"], "at most 0"),
            (["all"], ["a"], "at most 0"),
            (["all"], ["a=c=-1"], "the nearest is a=b, got a=c"),
        ] {
            let error = resolve(raw_with(&steps, &scores), &MODELS).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let error = resolve(raw_with(&["scope", "scope"], &[]), &MODELS).unwrap_err().to_string();
        assert!(error.contains("no step twice"), "{error}");
    }
}
