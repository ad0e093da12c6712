//! The JSON of the gateway's endpoints. Members that we do not use are checked as the original does, then ignored.

pub(super) mod answer;
pub(super) mod components;
pub(super) mod prompts;
pub(super) mod v2;

use serde::Deserialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Ref, RefOr, Schema,
        schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Type},
    },
};

use crate::api::json::Object;

/// Member `model_metadata` of any body: which model GitLab wants asked.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = gitlab::ModelMetadata)]
pub(super) struct WireModelMetadata {
    #[schema(max_length = 255)]
    pub(super) provider: Option<String>,
    #[schema(max_length = 255)]
    pub(super) name: Option<String>,
    /// Refused, unless the server passes it over.
    #[schema(max_length = 255)]
    pub(super) endpoint: Option<String>,
    /// Refused, unless the server passes it over.
    #[schema(max_length = 2000)]
    pub(super) api_key: Option<String>,
    /// Name of a model, `custom_openai/` before it or not.
    #[schema(max_length = 1000)]
    pub(super) identifier: Option<String>,
    #[schema(max_length = 255)]
    pub(super) role_arn: Option<String>,
}

/// A prompt that GitLab wrote itself: for one model a text, for another a conversation.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "neither a text nor a list of messages")]
pub(super) enum WirePrompt {
    Text(String),
    Messages(Vec<Object<WireMessage>>),
}

impl PartialSchema for WirePrompt {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        let message = Ref::from_schema_name(WireMessage::name());
        OneOfBuilder::new().item(text).item(ArrayBuilder::new().items(message)).into()
    }
}

impl ToSchema for WirePrompt {
    fn name() -> std::borrow::Cow<'static, str> {
        "gitlab.Prompt".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((WireMessage::name().into_owned(), WireMessage::schema()));
    }
}

/// A turn of a conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = gitlab::Message)]
pub(super) struct WireMessage {
    /// `system`, `user` or `assistant`.
    #[schema(value_type = String, required = true)]
    pub(super) role: Option<String>,
    /// At most 400 000 characters.
    #[schema(value_type = String, required = true)]
    pub(super) content: Option<String>,
}
