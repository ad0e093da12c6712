//! Mistral's models on Google's Vertex AI: Mistral's bodies behind Google's paths and tokens.
//!
//! # Source
//! Vertex AI, partner models: `publishers/mistralai/models/MODEL:rawPredict` and `:streamRawPredict`.

use serde_json::Value;

use crate::{
    client::Framing,
    config::FimForm,
    provider::hosted::protocol::{
        Abilities, Access, Ask, Fault, Heard, Outgoing, Protocol, mistral, openai_chat::read_chat,
        vertex_path,
    },
};

/// The protocol `vertex-mistral`.
pub(super) struct VertexMistral;

static ABILITIES: Abilities = Abilities {
    name: "vertex-mistral",
    url: None,
    family: Some("codestral"),
    context_tokens: None,
    forms: &[FimForm::Suffix],
    has_chat: false,
    has_choices: false,
    has_logprobs: false,
    num_stops_max: 16,
    framing: Framing::Events,
    access: Access::Google,
};

impl Protocol for VertexMistral {
    fn abilities(&self) -> &'static Abilities {
        &ABILITIES
    }

    fn request(&self, ask: &Ask<'_>) -> Outgoing {
        let path = vertex_path(ask.place, "mistralai", ask.is_streaming);
        Outgoing { path, headers: &[], body: mistral::body(ask) }
    }

    fn read_answer(&self, body: &Value) -> Result<Heard, Fault> {
        read_chat(body, "message").map(|heard| Heard { is_end: true, ..heard })
    }

    fn read_event(&self, event: &Value) -> Result<Heard, Fault> {
        read_chat(event, "delta")
    }
}
