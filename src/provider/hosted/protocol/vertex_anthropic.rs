//! Anthropic's models on Google's Vertex AI: the model stands in the path, and the version in the body.
//!
//! # Source
//! Vertex AI, partner models: `publishers/anthropic/models/MODEL:rawPredict` and `:streamRawPredict`.

use serde_json::Value;

use crate::{
    client::Framing,
    config::FimForm,
    provider::hosted::protocol::{
        Abilities, Access, Ask, Fault, Heard, Outgoing, Protocol, anthropic, vertex_path,
    },
};

/// The protocol `vertex-anthropic`.
pub(super) struct VertexAnthropic;

static ABILITIES: Abilities = Abilities {
    name: "vertex-anthropic",
    url: None,
    family: None,
    context_tokens: None,
    forms: &[FimForm::Instruction, FimForm::None],
    has_chat: true,
    has_choices: false,
    has_logprobs: false,
    num_stops_max: 16,
    framing: Framing::Events,
    access: Access::Google,
};

impl Protocol for VertexAnthropic {
    fn abilities(&self) -> &'static Abilities {
        &ABILITIES
    }

    fn request(&self, ask: &Ask<'_>) -> Outgoing {
        let mut body = anthropic::body(ask);
        body.insert("anthropic_version".to_owned(), "vertex-2023-10-16".into());
        let path = vertex_path(ask.place, "anthropic", ask.is_streaming);
        Outgoing { path, headers: &[], body }
    }

    fn read_answer(&self, body: &Value) -> Result<Heard, Fault> {
        anthropic::read_answer(body)
    }

    fn read_event(&self, event: &Value) -> Result<Heard, Fault> {
        anthropic::read_event(event)
    }
}
