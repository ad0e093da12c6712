//! OpenAI's `POST /completions`, which most servers of models speak: vLLM, Fireworks, Together, `DeepSeek`.

use serde_json::{Map, Value, json};

use crate::{
    client::Framing,
    completion::TokenLogprob,
    config::FimForm,
    provider::hosted::protocol::{
        Abilities, Access, Ask, Fault, Heard, HostedPrompt, Outgoing, Piece, Protocol, number,
        object, openai_choices, openai_usage, put_stops, put_unless, text,
    },
};

/// The protocol `openai-completions`.
pub(super) struct OpenAiCompletions;

static ABILITIES: Abilities = Abilities {
    name: "openai-completions",
    url: None,
    family: None,
    context_tokens: None,
    forms: &[FimForm::Template, FimForm::Suffix, FimForm::None],
    has_chat: false,
    has_choices: true,
    has_logprobs: true,
    // OpenAI and Fireworks refuse a fifth.
    num_stops_max: 4,
    framing: Framing::Events,
    access: Access::Key,
};

impl Protocol for OpenAiCompletions {
    fn abilities(&self) -> &'static Abilities {
        &ABILITIES
    }

    fn request(&self, ask: &Ask<'_>) -> Outgoing {
        let mut body = object([
            ("model", ask.place.model.as_str().into()),
            ("max_tokens", ask.max_tokens.into()),
        ]);
        match ask.prompt {
            HostedPrompt::Text(prompt) => {
                body.insert("prompt".to_owned(), prompt.as_str().into());
            }
            HostedPrompt::Gap { prefix, suffix } => {
                body.insert("prompt".to_owned(), prefix.as_str().into());
                body.insert("suffix".to_owned(), suffix.as_str().into());
            }
            HostedPrompt::Chat(_) => {}
        }
        if let Some(num_top) = ask.logprobs {
            body.insert("logprobs".to_owned(), num_top.into());
        }
        put_common(ask, &mut body);
        Outgoing { path: "/completions".to_owned(), headers: &[], body }
    }

    fn read_answer(&self, body: &Value) -> Result<Heard, Fault> {
        read(body).map(|heard| Heard { is_end: true, ..heard })
    }

    fn read_event(&self, event: &Value) -> Result<Heard, Fault> {
        read(event)
    }
}

/// Adds what `/completions` and `/chat/completions` have in common.
pub(super) fn put_common(ask: &Ask<'_>, body: &mut Map<String, Value>) {
    let sampling = ask.sampling;
    body.insert("temperature".to_owned(), number(sampling.temperature));
    put_unless(body, "top_p", sampling.top_p, 1.0);
    put_unless(body, "presence_penalty", sampling.presence_penalty, 0.0);
    put_unless(body, "frequency_penalty", sampling.frequency_penalty, 0.0);
    // Not OpenAI's own, and so not sent unless somebody asks for them.
    put_unless(body, "min_p", sampling.min_p, 0.0);
    put_unless(body, "repetition_penalty", sampling.repetition_penalty, 1.0);
    if sampling.top_k > 0 {
        body.insert("top_k".to_owned(), sampling.top_k.into());
    }
    if ask.ignores_eos {
        body.insert("ignore_eos".to_owned(), true.into());
    }
    if let Some(seed) = sampling.seed {
        body.insert("seed".to_owned(), seed.into());
    }
    put_stops(body, "stop", ask.stops);
    if ask.num_choices > 1 {
        body.insert("n".to_owned(), ask.num_choices.into());
    }
    if ask.is_streaming {
        body.insert("stream".to_owned(), true.into());
        body.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
}

fn read(body: &Value) -> Result<Heard, Fault> {
    let pieces = openai_choices(body, |choice, piece: &mut Piece| {
        piece.text.push_str(text(&choice["text"], "a choice's text is none")?);
        piece.logprobs = logprobs(&choice["logprobs"]);
        Ok(())
    })?;
    Ok(Heard { pieces, counted: openai_usage(body), is_end: false })
}

/// Reads the parallel lists of the older form; what is not in all of them is left out.
fn logprobs(value: &Value) -> Vec<TokenLogprob> {
    let list = |key: &str| value[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let tokens = list("tokens").iter().zip(list("token_logprobs")).enumerate();
    let tops = list("top_logprobs");
    let read = |(index, (token, logprob)): (usize, (&Value, &Value))| {
        let top = tops.get(index).and_then(Value::as_object).into_iter().flatten();
        let mut top: Vec<(String, f32)> = top
            .filter_map(|(token, logprob)| Some((token.clone(), logprob.as_f64()? as f32)))
            .collect();
        top.sort_by(|left, right| right.1.total_cmp(&left.1));
        let token = token.as_str()?.to_owned();
        Some(TokenLogprob { token, logprob: logprob.as_f64()? as f32, top })
    };
    tokens.filter_map(read).collect()
}
