//! OpenAI's `POST /chat/completions`; a gap is asked for in words.

use serde_json::Value;

use crate::{
    client::Framing,
    completion::TokenLogprob,
    config::FimForm,
    provider::hosted::protocol::{
        Abilities, Access, Ask, Fault, Heard, HostedPrompt, Outgoing, Piece, Protocol, messages,
        object, openai_choices, openai_completions::put_common, openai_usage, text,
    },
};

/// The protocol `openai-chat`.
pub(super) struct OpenAiChat;

static ABILITIES: Abilities = Abilities {
    name: "openai-chat",
    url: None,
    family: None,
    context_tokens: None,
    forms: &[FimForm::Instruction, FimForm::None],
    has_chat: true,
    has_choices: true,
    has_logprobs: true,
    num_stops_max: 4,
    framing: Framing::Events,
    access: Access::Key,
};

/// Its newer models know `max_completion_tokens` only, and most other servers `max_tokens` only.
const OPENAI_HOST: &str = "api.openai.com";

impl Protocol for OpenAiChat {
    fn abilities(&self) -> &'static Abilities {
        &ABILITIES
    }

    fn request(&self, ask: &Ask<'_>) -> Outgoing {
        let chat = match ask.prompt {
            HostedPrompt::Chat(chat) => chat.as_slice(),
            HostedPrompt::Text(_) | HostedPrompt::Gap { .. } => &[],
        };
        let limit =
            if ask.place.host == OPENAI_HOST { "max_completion_tokens" } else { "max_tokens" };
        let mut body = object([
            ("model", ask.place.model.as_str().into()),
            ("messages", messages(chat)),
            (limit, ask.max_tokens.into()),
        ]);
        if let Some(num_top) = ask.logprobs {
            body.insert("logprobs".to_owned(), true.into());
            body.insert("top_logprobs".to_owned(), num_top.into());
        }
        put_common(ask, &mut body);
        Outgoing { path: "/chat/completions".to_owned(), headers: &[], body }
    }

    fn read_answer(&self, body: &Value) -> Result<Heard, Fault> {
        read_chat(body, "message").map(|heard| Heard { is_end: true, ..heard })
    }

    fn read_event(&self, event: &Value) -> Result<Heard, Fault> {
        read_chat(event, "delta")
    }
}

/// Reads the choices of a chat, whose texts are in `message` or `delta`.
pub(super) fn read_chat(body: &Value, member: &str) -> Result<Heard, Fault> {
    let pieces = openai_choices(body, |choice, piece: &mut Piece| {
        content(&choice[member]["content"], &mut piece.text)?;
        let tokens = choice["logprobs"]["content"].as_array().into_iter().flatten();
        piece.logprobs = tokens.filter_map(logprob).collect();
        Ok(())
    })?;
    Ok(Heard { pieces, counted: openai_usage(body), is_end: false })
}

/// Some services write a text as a list of parts, of which those that think are none of the answer's.
fn content(value: &Value, into: &mut String) -> Result<(), Fault> {
    let Value::Array(parts) = value else {
        into.push_str(text(value, "a choice's content is no text")?);
        return Ok(());
    };
    for part in parts.iter().filter(|part| part["type"] == "text") {
        into.push_str(text(&part["text"], "a part's text is none")?);
    }
    Ok(())
}

fn logprob(token: &Value) -> Option<TokenLogprob> {
    let pair = |token: &Value| {
        Some((token["token"].as_str()?.to_owned(), token["logprob"].as_f64()? as f32))
    };
    let (text, logprob) = pair(token)?;
    let top = token["top_logprobs"].as_array().into_iter().flatten().filter_map(pair).collect();
    Some(TokenLogprob { token: text, logprob, top })
}
