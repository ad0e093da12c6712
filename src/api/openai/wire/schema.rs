//! How members that may be written in several ways are described; what reads them stands beside their types.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Ref, RefOr, Schema,
        schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Type},
    },
};

use crate::api::openai::wire::chat::WirePart;

/// A prompt or several.
pub(in crate::api::openai) struct Prompt;

impl PartialSchema for Prompt {
    fn schema() -> RefOr<Schema> {
        let texts = ArrayBuilder::new().items(of(Type::String));
        OneOfBuilder::new()
            .item(of(Type::String))
            .item(texts)
            .item(ids())
            .item(ArrayBuilder::new().items(ids()))
            .into()
    }
}

impl ToSchema for Prompt {
    fn name() -> Cow<'static, str> {
        "openai.Prompt".into()
    }
}

/// A stop text or several.
pub(in crate::api::openai) struct Stop;

impl PartialSchema for Stop {
    fn schema() -> RefOr<Schema> {
        let texts = ArrayBuilder::new().items(of(Type::String));
        OneOfBuilder::new().item(of(Type::String)).item(texts).into()
    }
}

impl ToSchema for Stop {
    fn name() -> Cow<'static, str> {
        "openai.Stop".into()
    }
}

/// Whether log-probabilities are wanted.
pub(in crate::api::openai) struct LogprobsAsked;

impl PartialSchema for LogprobsAsked {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new().item(of(Type::Boolean)).item(of(Type::Integer)).into()
    }
}

impl ToSchema for LogprobsAsked {
    fn name() -> Cow<'static, str> {
        "openai.LogprobsAsked".into()
    }
}

/// What was said in a turn: a text, or a list of parts.
pub(in crate::api::openai) struct Content;

impl PartialSchema for Content {
    fn schema() -> RefOr<Schema> {
        let part = Ref::from_schema_name(WirePart::name());
        OneOfBuilder::new().item(of(Type::String)).item(ArrayBuilder::new().items(part)).into()
    }
}

impl ToSchema for Content {
    fn name() -> Cow<'static, str> {
        "openai.Content".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((WirePart::name().into_owned(), WirePart::schema()));
    }
}

fn of(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(kind)
}

fn ids() -> ArrayBuilder {
    ArrayBuilder::new().items(of(Type::Integer).minimum(Some(0)).maximum(Some(u32::MAX)))
}
