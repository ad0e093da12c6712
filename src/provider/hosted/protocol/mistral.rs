//! Mistral's `POST /v1/fim/completions`.

use serde_json::{Map, Value};

use crate::{
    client::Framing,
    config::FimForm,
    provider::hosted::protocol::{
        Abilities, Access, Ask, Fault, Heard, HostedPrompt, Outgoing, Protocol, number, object,
        openai_chat::read_chat, put_stops, put_unless,
    },
};

/// The protocol `mistral-fim`.
pub(super) struct MistralFim;

static ABILITIES: Abilities = Abilities {
    name: "mistral-fim",
    url: Some("https://api.mistral.ai"),
    family: Some("codestral"),
    context_tokens: None,
    forms: &[FimForm::Suffix],
    has_chat: false,
    has_choices: false,
    has_logprobs: false,
    num_stops_max: 16,
    framing: Framing::Events,
    access: Access::NeedsKey,
};

impl Protocol for MistralFim {
    fn abilities(&self) -> &'static Abilities {
        &ABILITIES
    }

    fn request(&self, ask: &Ask<'_>) -> Outgoing {
        Outgoing { path: "/v1/fim/completions".to_owned(), headers: &[], body: body(ask) }
    }

    fn read_answer(&self, body: &Value) -> Result<Heard, Fault> {
        read_chat(body, "message").map(|heard| Heard { is_end: true, ..heard })
    }

    fn read_event(&self, event: &Value) -> Result<Heard, Fault> {
        read_chat(event, "delta")
    }
}

/// Returns what is sent, here and by way of Google.
pub(super) fn body(ask: &Ask<'_>) -> Map<String, Value> {
    let mut body = object([
        ("model", ask.place.model.as_str().into()),
        ("max_tokens", ask.max_tokens.into()),
        ("temperature", number(ask.sampling.temperature)),
        ("stream", ask.is_streaming.into()),
    ]);
    if let HostedPrompt::Gap { prefix, suffix } = ask.prompt {
        body.insert("prompt".to_owned(), prefix.as_str().into());
        if !suffix.is_empty() {
            body.insert("suffix".to_owned(), suffix.as_str().into());
        }
    }
    put_unless(&mut body, "top_p", ask.sampling.top_p, 1.0);
    if let Some(seed) = ask.sampling.seed {
        body.insert("random_seed".to_owned(), seed.into());
    }
    put_stops(&mut body, "stop", ask.stops);
    body
}
