//! Which steps of post-processing a request does without: what it asks for itself, and what its feature flags say.

use axum::http::{HeaderMap, HeaderName};

use crate::api::error::ApiError;
use crate::completion::Step;

/// The steps that a request wants, of those that the operator's settings have.
const X_LACUNA_POSTPROCESS: HeaderName = HeaderName::from_static("x-lacuna-postprocess");

/// A flag of this name and a step's leaves the step out.
const FLAG: &str = "postprocess_without_";

/// Returns the steps that a request's header leaves out.
///
/// # Errors
/// A word that is no step; the header is not echoed.
pub(super) fn left_out(headers: &HeaderMap) -> Result<Vec<Step>, ApiError> {
    let Some(value) = headers.get(X_LACUNA_POSTPROCESS) else { return Ok(Vec::new()) };
    let wrong = |rule| ApiError::invalid(X_LACUNA_POSTPROCESS.as_str(), rule);
    let text = value.to_str().map_err(|_| wrong("must be the names of steps".to_owned()))?;
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    Step::chosen(names, &Step::ALL)
        .map(|chosen| Step::ALL.into_iter().filter(|step| !chosen.contains(step)).collect())
        .map_err(|error| wrong(format!("must be {}", error.rule())))
}

/// Returns the steps that feature flags leave out.
pub(super) fn left_out_by(flags: &[String]) -> impl Iterator<Item = Step> {
    flags.iter().filter_map(|flag| Step::by_name(flag.strip_prefix(FLAG)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_and_flags_name_what_is_left_out() {
        let of = |value: &'static str| {
            let value = axum::http::HeaderValue::from_static(value);
            left_out(&HeaderMap::from_iter([(X_LACUNA_POSTPROCESS, value)]))
        };
        assert_eq!(left_out(&HeaderMap::new()).unwrap(), []);
        assert_eq!(of("").unwrap(), []);
        assert_eq!(of("all").unwrap(), []);
        assert_eq!(of("all, -scope").unwrap(), [Step::Scope]);
        assert_eq!(of("none").unwrap(), Step::ALL);
        assert_eq!(of("scope").unwrap(), Step::all_but(Step::Scope));
        let error = of("all,-scopes").unwrap_err();
        assert!(error.message.contains("the nearest is scope"), "{}", error.message);
        assert!(!error.message.contains("scopes"), "{}", error.message);
        let flags = ["postprocess_without_scope", "other"].map(str::to_owned);
        assert_eq!(left_out_by(&flags).collect::<Vec<_>>(), [Step::Scope]);
    }
}
