//! The server of llama.cpp: `POST /infill` for gaps, `POST /completion` for texts.

use serde_json::Value;

use crate::{
    client::Framing,
    completion::FinishReason,
    config::FimForm,
    provider::hosted::protocol::{
        Abilities, Access, Ask, Counted, Fault, Heard, HostedPrompt, Outgoing, Piece, Protocol,
        check_error, count, number, object, put_stops, put_unless, text,
    },
};

/// The protocol `llama-cpp`.
pub(super) struct LlamaCpp;

static ABILITIES: Abilities = Abilities {
    name: "llama-cpp",
    url: Some("http://127.0.0.1:8080"),
    family: None,
    context_tokens: None,
    forms: &[FimForm::Suffix, FimForm::Template, FimForm::None],
    has_chat: false,
    has_choices: false,
    has_logprobs: false,
    num_stops_max: 32,
    framing: Framing::Events,
    access: Access::Key,
};

impl Protocol for LlamaCpp {
    fn abilities(&self) -> &'static Abilities {
        &ABILITIES
    }

    fn request(&self, ask: &Ask<'_>) -> Outgoing {
        let sampling = ask.sampling;
        let mut body = object([
            ("model", ask.place.model.as_str().into()),
            ("n_predict", ask.max_tokens.into()),
            ("temperature", number(sampling.temperature)),
            // What is neutral here is not there, so that all is said.
            ("top_k", sampling.top_k.into()),
            ("top_p", number(sampling.top_p)),
            ("min_p", number(sampling.min_p)),
            ("cache_prompt", true.into()),
            ("stream", ask.is_streaming.into()),
        ]);
        put_unless(&mut body, "repeat_penalty", sampling.repetition_penalty, 1.0);
        put_unless(&mut body, "presence_penalty", sampling.presence_penalty, 0.0);
        put_unless(&mut body, "frequency_penalty", sampling.frequency_penalty, 0.0);
        if ask.ignores_eos {
            body.insert("ignore_eos".to_owned(), true.into());
        }
        if let Some(seed) = sampling.seed {
            body.insert("seed".to_owned(), seed.into());
        }
        put_stops(&mut body, "stop", ask.stops);
        let path = match ask.prompt {
            HostedPrompt::Gap { prefix, suffix } => {
                body.insert("input_prefix".to_owned(), prefix.as_str().into());
                body.insert("input_suffix".to_owned(), suffix.as_str().into());
                "/infill"
            }
            HostedPrompt::Text(prompt) => {
                body.insert("prompt".to_owned(), prompt.as_str().into());
                "/completion"
            }
            HostedPrompt::Chat(_) => "/completion",
        };
        Outgoing { path: path.to_owned(), headers: &[], body }
    }

    fn read_answer(&self, body: &Value) -> Result<Heard, Fault> {
        read(body)
    }

    fn read_event(&self, event: &Value) -> Result<Heard, Fault> {
        read(event)
    }
}

fn read(body: &Value) -> Result<Heard, Fault> {
    check_error(body)?;
    let content = body.get("content").ok_or(Fault::Malformed("it has no content"))?;
    let is_end =
        body["stop"].as_bool().ok_or(Fault::Malformed("it says not whether it is done"))?;
    let is_cut = body["stop_type"] == "limit" || body["stopped_limit"] == true;
    let finish = match (is_end, is_cut) {
        (false, _) => None,
        (true, true) => Some(FinishReason::Length),
        (true, false) => Some(FinishReason::Stop),
    };
    let text = text(content, "its content is no text")?.to_owned();
    let counted = Counted {
        prompt: count(&body["tokens_evaluated"]),
        cached: count(&body["timings"]["cache_n"]),
        completion: count(&body["tokens_predicted"]),
    };
    Ok(Heard { pieces: vec![Piece { text, finish, ..Piece::default() }], counted, is_end })
}
