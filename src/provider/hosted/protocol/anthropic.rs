//! Anthropic's `POST /v1/messages`; a gap is asked for in words.

use serde_json::{Map, Value, json};

use crate::{
    client::Framing,
    completion::{ChatMessage, ChatRole},
    config::FimForm,
    provider::hosted::protocol::{
        Abilities, Access, Ask, Counted, Fault, Heard, HostedPrompt, Outgoing, Piece, Protocol,
        check_error, count, finish, number, object, put_stops, text,
    },
};

/// The protocol `anthropic`.
pub(super) struct Anthropic;

static ABILITIES: Abilities = Abilities {
    name: "anthropic",
    url: Some("https://api.anthropic.com"),
    family: None,
    context_tokens: None,
    forms: &[FimForm::Instruction, FimForm::None],
    has_chat: true,
    has_choices: false,
    has_logprobs: false,
    num_stops_max: 16,
    framing: Framing::Events,
    access: Access::NeedsXApiKey,
};

impl Protocol for Anthropic {
    fn abilities(&self) -> &'static Abilities {
        &ABILITIES
    }

    fn request(&self, ask: &Ask<'_>) -> Outgoing {
        let mut body = body(ask);
        body.insert("model".to_owned(), ask.place.model.as_str().into());
        let headers = &[("anthropic-version", "2023-06-01")];
        Outgoing { path: "/v1/messages".to_owned(), headers, body }
    }

    fn read_answer(&self, body: &Value) -> Result<Heard, Fault> {
        read_answer(body)
    }

    fn read_event(&self, event: &Value) -> Result<Heard, Fault> {
        read_event(event)
    }
}

/// Returns what is sent, but for the model's name.
pub(super) fn body(ask: &Ask<'_>) -> Map<String, Value> {
    let chat = match ask.prompt {
        HostedPrompt::Chat(chat) => chat.as_slice(),
        HostedPrompt::Text(_) | HostedPrompt::Gap { .. } => &[],
    };
    let (system, turns) = turns(chat);
    let mut body = object([
        ("max_tokens", ask.max_tokens.into()),
        ("messages", turns),
        ("temperature", number(ask.sampling.temperature.min(1.0))),
        ("stream", ask.is_streaming.into()),
    ]);
    if !system.is_empty() {
        body.insert("system".to_owned(), system.into());
    }
    // Newer models take one of the two, and the temperature is always said: so the other gives way to it.
    if ask.sampling.top_p < 1.0 {
        body.remove("temperature");
        body.insert("top_p".to_owned(), number(ask.sampling.top_p));
    }
    if ask.sampling.top_k > 0 {
        body.insert("top_k".to_owned(), ask.sampling.top_k.into());
    }
    // A stop text of nothing but blanks is refused there, and watched for here.
    let stops: Vec<String> =
        ask.stops.iter().filter(|stop| !stop.trim().is_empty()).cloned().collect();
    put_stops(&mut body, "stop_sequences", &stops);
    body
}

/// Takes what the system says out of a conversation, and joins turns of the same side: sides alternate there.
fn turns(chat: &[ChatMessage]) -> (String, Value) {
    let is_system = |message: &&ChatMessage| message.role == ChatRole::System;
    let system: Vec<&str> =
        chat.iter().filter(is_system).map(|message| message.content.as_str()).collect();
    let mut turns: Vec<(ChatRole, String)> = Vec::new();
    for message in chat.iter().filter(|message| !is_system(message)) {
        match turns.last_mut() {
            Some((role, text)) if *role == message.role => {
                text.push_str("\n\n");
                text.push_str(&message.content);
            }
            _ => turns.push((message.role, message.content.clone())),
        }
    }
    let turn =
        |(role, content): (ChatRole, String)| json!({"role": role.as_str(), "content": content});
    (system.join("\n\n"), turns.into_iter().map(turn).collect())
}

/// Reads a message that came whole.
pub(super) fn read_answer(body: &Value) -> Result<Heard, Fault> {
    check_error(body)?;
    let blocks = body["content"].as_array().ok_or(Fault::Malformed("it has no content"))?;
    let mut piece = Piece { finish: finish(&body["stop_reason"])?, ..Piece::default() };
    for block in blocks.iter().filter(|block| block["type"] == "text") {
        piece.text.push_str(text(&block["text"], "a block's text is none")?);
    }
    Ok(Heard { pieces: vec![piece], counted: usage(&body["usage"]), is_end: true })
}

/// Reads an event of a message.
pub(super) fn read_event(event: &Value) -> Result<Heard, Fault> {
    check_error(event)?;
    let kind = event["type"].as_str().ok_or(Fault::Malformed("an event has no type"))?;
    let piece = |piece| Heard { pieces: vec![piece], ..Heard::default() };
    Ok(match kind {
        "message_start" => Heard { counted: usage(&event["message"]["usage"]), ..Heard::default() },
        "content_block_delta" if event["delta"]["type"] == "text_delta" => {
            let text = text(&event["delta"]["text"], "a delta's text is none")?.to_owned();
            piece(Piece { text, ..Piece::default() })
        }
        "message_delta" => {
            let finish = finish(&event["delta"]["stop_reason"])?;
            let counted = Counted { prompt: None, cached: None, ..usage(&event["usage"]) };
            Heard { counted, ..piece(Piece { finish, ..Piece::default() }) }
        }
        "message_stop" => Heard { is_end: true, ..Heard::default() },
        // Pings, the borders of blocks, what a model thinks, and what will be new.
        _ => Heard::default(),
    })
}

/// What is cached, and what is written to the cache, is counted apart there.
fn usage(usage: &Value) -> Counted {
    let cached = count(&usage["cache_read_input_tokens"]);
    let written = count(&usage["cache_creation_input_tokens"]).unwrap_or(0);
    let prompt = count(&usage["input_tokens"]);
    Counted {
        prompt: prompt
            .map(|prompt| prompt.saturating_add(cached.unwrap_or(0)).saturating_add(written)),
        cached,
        completion: count(&usage["output_tokens"]),
    }
}
