//! Which model a body asks for, and what it may not bring along.

use crate::api::{
    error::ApiError,
    gitlab::{
        convert::check_chars,
        wire::{WireModelMetadata, v2::WireRequest},
    },
    json::Object,
};
use crate::service::{CompletionService, ServedModels};

// The original's limits, in characters.
const IDENTIFIER_CHARS_MAX: usize = 1000;
const ENDPOINT_CHARS_MAX: usize = 255;
const KEY_CHARS_MAX: usize = 2000;

/// What a body says of the model it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::api::gitlab) struct ModelWish {
    /// The most exact first.
    names: Vec<String>,
    /// The first member that names an endpoint or a key.
    brought: Option<&'static str>,
}

impl ModelWish {
    /// Reads the members of a v2 body.
    pub(in crate::api::gitlab) fn of_v2(wire: &WireRequest) -> Result<Self, ApiError> {
        let mut wish = Self::of_metadata(wire.model_metadata.as_ref())?;
        let rows = [
            ("model_endpoint", &wire.model_endpoint, ENDPOINT_CHARS_MAX),
            ("model_api_key", &wire.model_api_key, KEY_CHARS_MAX),
        ];
        wish.bring(&rows)?;
        wish.identifier("model_identifier", wire.model_identifier.as_deref())?;
        wish.name(wire.model_name.as_deref());
        Ok(wish)
    }

    /// Reads `model_metadata`, which any body may have.
    pub(in crate::api::gitlab) fn of_metadata(
        wire: Option<&Object<WireModelMetadata>>,
    ) -> Result<Self, ApiError> {
        let mut wish = Self::default();
        let Some(Object(wire)) = wire else { return Ok(wish) };
        let provider = wire.provider.as_deref().unwrap_or_default();
        check_chars("model_metadata.provider", provider, ENDPOINT_CHARS_MAX)?;
        let role = wire.role_arn.as_deref().unwrap_or_default();
        check_chars("model_metadata.role_arn", role, ENDPOINT_CHARS_MAX)?;
        let name = wire.name.as_deref();
        check_chars("model_metadata.name", name.unwrap_or_default(), ENDPOINT_CHARS_MAX)?;
        let rows = [
            ("model_metadata.endpoint", &wire.endpoint, ENDPOINT_CHARS_MAX),
            ("model_metadata.api_key", &wire.api_key, KEY_CHARS_MAX),
        ];
        wish.bring(&rows)?;
        wish.identifier("model_metadata.identifier", wire.identifier.as_deref())?;
        wish.name(name);
        Ok(wish)
    }

    /// Adds a name that is as good as any.
    pub(in crate::api::gitlab) fn name(&mut self, name: Option<&str>) {
        self.names.extend(name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()));
    }

    /// A self-hosted model's identifier may have its provider before it: `custom_openai/NAME`.
    fn identifier(&mut self, field: &str, text: Option<&str>) -> Result<(), ApiError> {
        check_chars(field, text.unwrap_or_default(), IDENTIFIER_CHARS_MAX)?;
        self.name(text);
        self.name(text.and_then(|text| Some(text.trim().split_once('/')?.1)));
        Ok(())
    }

    fn bring(&mut self, rows: &[(&'static str, &Option<String>, usize)]) -> Result<(), ApiError> {
        for (field, text, chars_max) in rows {
            let text = text.as_deref().unwrap_or_default();
            check_chars(field, text, *chars_max)?;
            if !text.trim().is_empty() {
                self.brought.get_or_insert(field);
            }
        }
        Ok(())
    }

    /// Refuses an endpoint or a key that a request brings, unless the settings let it pass.
    pub(in crate::api::gitlab) fn check(&self, is_allowed: bool) -> Result<(), ApiError> {
        match self.brought {
            Some(field) if !is_allowed => Err(ApiError::invalid(
                field,
                "is not taken from requests; with `gateway.custom_models = true` it is passed over and a model of this server answers, for endpoints of requests are not contacted yet",
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns what answers. Clients name what their GitLab was told of, which need not be anything that is served here:
    /// then the first model does.
    pub(in crate::api::gitlab) fn service<'a>(
        &self,
        models: &'a ServedModels,
    ) -> &'a CompletionService {
        let served = self.names.iter().find_map(|name| models.find(name));
        served.map_or(models.first(), |served| &served.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(identifier: Option<&str>, name: Option<&str>, endpoint: Option<&str>) -> ModelWish {
        let text = |text: Option<&str>| text.map(ToOwned::to_owned);
        let wire = WireModelMetadata {
            provider: text(Some("openai")),
            name: text(name),
            endpoint: text(endpoint),
            api_key: None,
            identifier: text(identifier),
            role_arn: None,
        };
        ModelWish::of_metadata(Some(&Object(wire))).unwrap()
    }

    #[test]
    fn the_most_exact_name_comes_first() {
        let rows = [
            (
                Some("custom_openai/coder"),
                Some("codestral"),
                &["custom_openai/coder", "coder", "codestral"][..],
            ),
            (Some(" org/coder "), None, &["org/coder", "coder"]),
            (Some("coder"), Some("general"), &["coder", "general"]),
            (Some(""), Some(" "), &[]),
            (None, None, &[]),
        ];
        for (identifier, name, names) in rows {
            assert_eq!(wish(identifier, name, None).names, names);
        }
    }

    #[test]
    fn what_a_request_brings_is_refused_unless_it_is_let_pass() {
        let brings = wish(None, None, Some("http://127.0.0.1:9/v1"));
        let error = brings.check(false).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("model_metadata.endpoint"));
        assert!(error.message.contains("gateway.custom_models = true"), "{error}");
        assert!(!error.message.contains("127.0.0.1"), "{error}");
        assert_eq!(brings.check(true), Ok(()));
        for empty in [None, Some(""), Some(" ")] {
            assert_eq!(wish(None, None, empty).check(false), Ok(()));
        }
    }
}
