//! Ollama's `POST /api/generate` and `POST /api/chat`, answered by lines of JSON.

use serde_json::Value;

use crate::{
    client::Framing,
    config::FimForm,
    provider::hosted::protocol::{
        Abilities, Access, Ask, Counted, Fault, Heard, HostedPrompt, Outgoing, Piece, Protocol,
        check_error, count, finish, messages, number, object, put_stops, put_unless, text,
    },
};

/// The protocol `ollama`.
pub(super) struct Ollama;

static ABILITIES: Abilities = Abilities {
    name: "ollama",
    url: Some("http://127.0.0.1:11434"),
    family: None,
    // It cuts what is longer than `num_ctx` without a word, and takes memory for all of it.
    context_tokens: Some(8192),
    // Its own template knows the model; ours is for models whose template there has no place for a suffix.
    forms: &[FimForm::Suffix, FimForm::Template, FimForm::None],
    has_chat: true,
    has_choices: false,
    has_logprobs: false,
    num_stops_max: 32,
    framing: Framing::Lines,
    access: Access::Key,
};

impl Protocol for Ollama {
    fn abilities(&self) -> &'static Abilities {
        &ABILITIES
    }

    fn request(&self, ask: &Ask<'_>) -> Outgoing {
        let sampling = ask.sampling;
        let mut options = object([
            ("num_ctx", ask.place.context_tokens.into()),
            ("num_predict", ask.max_tokens.into()),
            ("temperature", number(sampling.temperature)),
        ]);
        put_unless(&mut options, "top_p", sampling.top_p, 1.0);
        put_unless(&mut options, "min_p", sampling.min_p, 0.0);
        put_unless(&mut options, "repeat_penalty", sampling.repetition_penalty, 1.0);
        put_unless(&mut options, "presence_penalty", sampling.presence_penalty, 0.0);
        put_unless(&mut options, "frequency_penalty", sampling.frequency_penalty, 0.0);
        if sampling.top_k > 0 {
            options.insert("top_k".to_owned(), sampling.top_k.into());
        }
        if let Some(seed) = sampling.seed {
            options.insert("seed".to_owned(), seed.into());
        }
        put_stops(&mut options, "stop", ask.stops);
        let mut body = object([
            ("model", ask.place.model.as_str().into()),
            ("stream", ask.is_streaming.into()),
            ("options", options.into()),
        ]);
        let path = match ask.prompt {
            HostedPrompt::Text(prompt) => {
                body.insert("prompt".to_owned(), prompt.as_str().into());
                body.insert("raw".to_owned(), true.into());
                "/api/generate"
            }
            HostedPrompt::Gap { prefix, suffix } => {
                body.insert("prompt".to_owned(), prefix.as_str().into());
                // Without a suffix it would take the prompt for a turn of a conversation.
                let suffix = if suffix.is_empty() { "\n" } else { suffix };
                body.insert("suffix".to_owned(), suffix.into());
                "/api/generate"
            }
            HostedPrompt::Chat(chat) => {
                body.insert("messages".to_owned(), messages(chat));
                "/api/chat"
            }
        };
        Outgoing { path: path.to_owned(), headers: &[], body }
    }

    fn read_answer(&self, body: &Value) -> Result<Heard, Fault> {
        read(body).map(|heard| Heard { is_end: true, ..heard })
    }

    fn read_event(&self, event: &Value) -> Result<Heard, Fault> {
        read(event)
    }
}

fn read(body: &Value) -> Result<Heard, Fault> {
    check_error(body)?;
    let content = match (&body["response"], &body["message"]["content"]) {
        (Value::Null, Value::Null) => return Err(Fault::Malformed("it has no text")),
        (Value::Null, content) | (content, _) => content,
    };
    let is_end =
        body["done"].as_bool().ok_or(Fault::Malformed("it says not whether it is done"))?;
    let finish = if is_end { finish(&body["done_reason"])? } else { None };
    let text = text(content, "its text is none")?.to_owned();
    let counted = Counted {
        prompt: count(&body["prompt_eval_count"]),
        cached: None,
        completion: count(&body["eval_count"]),
    };
    Ok(Heard { pieces: vec![Piece { text, finish, ..Piece::default() }], counted, is_end })
}
