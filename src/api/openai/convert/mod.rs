//! Between OpenAI's JSON and the vocabulary.

use crate::api::{
    check_items,
    error::ApiError,
    json::{Integer, Number, Object},
    openai::{
        Form,
        wire::{
            Unsupported, WireFormat, WireLogitBias, WireLogprobs, WireLogprobsAsked, WireRequest,
            WireStop, WireStreamOptions, WireTextLogprobs, WireTop, WireUsage, prompt::WirePrompt,
        },
    },
};
use crate::completion::{
    Asker, CompletionRequest, ContextItem, Input, PostProcessing, SamplingParams, Task,
    TokenLogprob, Usage,
};
use crate::provider::ModelInfo;
use crate::service::{CompletionService, ServedModels};

mod chat;

/// Prompts of one request; each is a completion of its own, so a request may not fill the queue alone.
const PROMPTS_MAX: usize = 32;
/// As vLLM; the original stops at 5.
const LOGPROBS_MAX: u32 = 20;
/// The original's limit is 300.
const LOGIT_BIAS_MAX: usize = 1024;
/// Far above what any client sends.
const STOP_TOKEN_IDS_MAX: usize = 128;
/// Bytes of a suffix over all prompts of a request: the usual limit of a body.
const SUFFIX_COPIES_BYTES_MAX: usize = 8 << 20;
/// What the original shows in place of minus infinity, which JSON cannot write.
const LOGPROB_MIN: f32 = -9999.0;

/// What a body asks for.
#[derive(Debug)]
pub(super) struct Asked {
    /// One a prompt, at least one.
    pub(super) requests: Vec<CompletionRequest>,
    /// The prompts' texts, where they are to stand before the answers.
    pub(super) echo: Option<Vec<String>>,
    /// Choices of each prompt.
    pub(super) num_choices: u32,
    pub(super) is_streaming: bool,
    pub(super) usage: StreamUsage,
}

/// Which events of a stream tell the tokens read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamUsage {
    /// None.
    Absent,
    /// One of its own at the end.
    Last,
    /// That one, and each piece those so far.
    Continuous,
}

impl From<WireStreamOptions> for StreamUsage {
    fn from(wire: WireStreamOptions) -> Self {
        match (wire.include_usage, wire.continuous_usage_stats) {
            (Some(true), Some(true)) => Self::Continuous,
            (Some(true), _) => Self::Last,
            _ => Self::Absent,
        }
    }
}

/// What is to be completed, and what is known of the place.
#[derive(Debug)]
struct Subject {
    input: Input,
    repository: Option<String>,
    file_name: Option<String>,
    context: Vec<ContextItem>,
}

impl Subject {
    fn new(input: Input) -> Self {
        Self { input, repository: None, file_name: None, context: Vec::new() }
    }
}

/// Checks a body and translates it; `models` are all that are served, for messages.
pub(super) fn asked(
    wire: WireRequest,
    form: Form,
    model: &ModelInfo,
    service: &CompletionService,
    models: &ServedModels,
) -> Result<Asked, ApiError> {
    let limits = service.limits();
    check_unsupported(&wire)?;
    if form == Form::Chat {
        chat::check_unsupported(&wire)?;
    }
    let num_choices = integer("n", wire.n, 1, limits.num_choices_limit.max(1))?.unwrap_or(1);
    let logprobs = logprobs_asked(&wire, form)?;
    let template = CompletionRequest {
        input: Input::Text(String::new()),
        file_name: None,
        repository: None,
        language: None,
        context: Vec::new(),
        sampling: sampling(&wire, model, num_choices)?,
        max_tokens: max_tokens(&wire, form)?,
        stop: stop(wire.stop, limits.num_stops_limit)?,
        stop_token_ids: stop_token_ids(wire.stop_token_ids, model)?,
        ignores_eos: wire.ignore_eos.unwrap_or(false),
        num_choices,
        logprobs,
        deadline: None,
        postprocessing: if service.postprocess().openai && form == Form::Text {
            PostProcessing::Completion { without: Vec::new() }
        } else {
            PostProcessing::None
        },
        model: Some(model.name.clone()),
        asker: Asker { task: task(form), ..Asker::default() },
        correlation_id: None,
        trace: crate::trace::Parent::default(),
    };
    let Object(options) = wire.stream_options.unwrap_or(Object(WireStreamOptions::default()));
    let is_streaming = wire.stream.unwrap_or(false);
    let (subjects, echo) = match form {
        Form::Text => {
            check_best_of(wire.best_of, num_choices)?;
            let prompt = wire.prompt.ok_or_else(|| ApiError::invalid("prompt", "is required"))?;
            let echo = wire.echo.unwrap_or(false).then(|| echo(&prompt, logprobs)).transpose()?;
            let inputs = inputs(prompt, wire.suffix, model)?;
            (inputs.into_iter().map(Subject::new).collect(), echo)
        }
        Form::Chat => (vec![chat::subject(wire.messages, model, models)?], None),
    };
    check_sequences(subjects.len(), num_choices, service.num_sequences_max())?;
    let request = |subject: Subject| CompletionRequest {
        input: subject.input,
        repository: subject.repository,
        file_name: subject.file_name,
        context: subject.context,
        ..template.clone()
    };
    Ok(Asked {
        requests: subjects.into_iter().map(request).collect(),
        echo,
        num_choices,
        is_streaming,
        usage: options.into(),
    })
}

/// A turn of a conversation is waited for, a text is typed on.
fn task(form: Form) -> Task {
    match form {
        Form::Text => Task::Completion,
        Form::Chat => Task::Generation,
    }
}

fn check_unsupported(wire: &WireRequest) -> Result<(), ApiError> {
    let members = [
        ("allowed_token_ids", wire.allowed_token_ids),
        ("bad_words", wire.bad_words),
        ("include_stop_str_in_output", wire.include_stop_str_in_output),
        ("min_tokens", wire.min_tokens),
        ("prompt_logprobs", wire.prompt_logprobs),
        ("return_token_ids", wire.return_token_ids),
        ("structured_outputs", wire.structured_outputs),
        ("truncate_prompt_tokens", wire.truncate_prompt_tokens),
        ("use_beam_search", wire.use_beam_search),
    ];
    if let Some(Object(WireFormat { r#type: Some(format) })) = &wire.response_format
        && format != "text"
    {
        return Err(ApiError::invalid("response_format", "is not supported"));
    }
    refuse_set(&members)
}

fn refuse_set(members: &[(&str, Option<Unsupported>)]) -> Result<(), ApiError> {
    for (field, member) in members {
        if member.is_some_and(|Unsupported { is_set }| is_set) {
            return Err(ApiError::invalid(*field, "is not supported"));
        }
    }
    Ok(())
}

/// Returns the member that says the most tokens of a choice; conversations have a newer word for it, which comes first.
pub(super) fn max_tokens_name(wire: &WireRequest, form: Form) -> &'static str {
    let is_newer = form == Form::Chat && wire.max_completion_tokens.is_some();
    if is_newer { "max_completion_tokens" } else { "max_tokens" }
}

fn max_tokens(wire: &WireRequest, form: Form) -> Result<Option<u32>, ApiError> {
    let newer = wire.max_completion_tokens.filter(|_| form == Form::Chat);
    integer(max_tokens_name(wire, form), newer.or(wire.max_tokens), 1, u32::MAX)
}

/// Returns the number of rivals to tell at each token; `None` where nothing is to be told.
fn logprobs_asked(wire: &WireRequest, form: Form) -> Result<Option<u32>, ApiError> {
    // Its rule holds where nobody looks at it, too.
    let rivals = integer("top_logprobs", wire.top_logprobs, 0, LOGPROBS_MAX)?;
    match (form, wire.logprobs) {
        (Form::Chat, None | Some(WireLogprobsAsked::Flag(false))) => match rivals {
            None | Some(0) => Ok(None),
            Some(_) => Err(ApiError::invalid("top_logprobs", "needs `logprobs` to be true")),
        },
        (Form::Text, None) => Ok(None),
        (Form::Text, Some(WireLogprobsAsked::Count(count))) => {
            integer("logprobs", Some(count), 0, LOGPROBS_MAX)
        }
        (Form::Chat, Some(WireLogprobsAsked::Flag(true))) => Ok(Some(rivals.unwrap_or(0))),
        (Form::Text, Some(WireLogprobsAsked::Flag(_))) => {
            Err(ApiError::invalid("logprobs", "must be a whole number"))
        }
        (Form::Chat, Some(WireLogprobsAsked::Count(_))) => {
            Err(ApiError::invalid("logprobs", "must be a truth value; `top_logprobs` is a number"))
        }
    }
}

fn check_best_of(best_of: Option<Integer>, num_choices: u32) -> Result<(), ApiError> {
    match best_of {
        Some(Integer(best_of)) if best_of != i128::from(num_choices) => Err(ApiError::invalid(
            "best_of",
            format!("must equal `n`, which is {num_choices}: choosing among more is not supported"),
        )),
        Some(_) | None => Ok(()),
    }
}

fn sampling(
    wire: &WireRequest,
    model: &ModelInfo,
    num_choices: u32,
) -> Result<SamplingParams, ApiError> {
    // The original's default is 1 always; editors that leave it out want the likeliest text.
    let temperature_default = if num_choices > 1 { 1.0 } else { 0.0 };
    let top_p = number("top_p", wire.top_p, 0.0, 1.0)?.unwrap_or(1.0);
    let repetition_penalty =
        number("repetition_penalty", wire.repetition_penalty, 0.0, 10.0)?.unwrap_or(1.0);
    for (field, value) in [("top_p", top_p), ("repetition_penalty", repetition_penalty)] {
        if value <= 0.0 {
            return Err(ApiError::invalid(field, "must be above 0"));
        }
    }
    let top_k = match wire.top_k {
        Some(Integer(-1)) => 0,
        other => integer("top_k", other, 0, u32::MAX)?.unwrap_or(0),
    };
    Ok(SamplingParams {
        temperature: number("temperature", wire.temperature, 0.0, 2.0)?
            .unwrap_or(temperature_default),
        top_k,
        top_p,
        min_p: number("min_p", wire.min_p, 0.0, 1.0)?.unwrap_or(0.0),
        repetition_penalty,
        presence_penalty: number("presence_penalty", wire.presence_penalty, -2.0, 2.0)?
            .unwrap_or(0.0),
        frequency_penalty: number("frequency_penalty", wire.frequency_penalty, -2.0, 2.0)?
            .unwrap_or(0.0),
        logit_bias: logit_bias(wire.logit_bias.as_ref(), model)?,
        seed: wire.seed.map(seed).transpose()?,
    })
}

/// Both 64-bit ranges name a seed: a negative one is its bits.
fn seed(Integer(seed): Integer) -> Result<u64, ApiError> {
    let signed = || i64::try_from(seed).ok().map(i64::cast_unsigned);
    u64::try_from(seed)
        .ok()
        .or_else(signed)
        .ok_or_else(|| ApiError::invalid("seed", "must be a whole number of 64 bits"))
}

fn logit_bias(
    wire: Option<&WireLogitBias>,
    model: &ModelInfo,
) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(WireLogitBias(entries)) = wire else { return Ok(Vec::new()) };
    check_items("logit_bias", entries.len(), LOGIT_BIAS_MAX)?;
    let mut biases = Vec::with_capacity(entries.len());
    for (id, bias) in entries {
        check_token_id("logit_bias", *id, model)?;
        if !(-100.0..=100.0).contains(bias) {
            return Err(ApiError::invalid("logit_bias", "must have values from -100 to 100"));
        }
        biases.push((*id, *bias as f32));
    }
    Ok(biases)
}

fn stop(wire: Option<WireStop>, stops_max: usize) -> Result<Option<Vec<String>>, ApiError> {
    let Some(WireStop(mut texts)) = wire else { return Ok(None) };
    check_items("stop", texts.len(), stops_max)?;
    // An empty text would end every answer before it begins.
    texts.retain(|text| !text.is_empty());
    Ok(Some(texts))
}

fn stop_token_ids(wire: Option<Vec<Integer>>, model: &ModelInfo) -> Result<Vec<u32>, ApiError> {
    let wire = wire.unwrap_or_default();
    check_items("stop_token_ids", wire.len(), STOP_TOKEN_IDS_MAX)?;
    let mut ids = Vec::with_capacity(wire.len());
    for Integer(id) in wire {
        let id = u32::try_from(id).unwrap_or(u32::MAX);
        check_token_id("stop_token_ids", id, model)?;
        ids.push(id);
    }
    Ok(ids)
}

fn echo(prompt: &WirePrompt, logprobs: Option<u32>) -> Result<Vec<String>, ApiError> {
    if logprobs.is_some() {
        return Err(ApiError::invalid("echo", "with `logprobs` is not supported"));
    }
    match prompt {
        WirePrompt::Texts(texts) => Ok(texts.clone()),
        WirePrompt::TokenLists(_) => {
            Err(ApiError::invalid("echo", "of token ids is not supported"))
        }
    }
}

/// With a suffix, even an empty one, a prompt is the text before a gap; without one it is continued as it stands.
fn inputs(
    prompt: WirePrompt,
    suffix: Option<String>,
    model: &ModelInfo,
) -> Result<Vec<Input>, ApiError> {
    if suffix.is_some() && !model.has_fim {
        return Err(ApiError::invalid("suffix", "is not supported by this model"));
    }
    let inputs: Vec<Input> = match (prompt, suffix) {
        (WirePrompt::Texts(texts), Some(suffix)) => {
            check_copies(texts.len(), &suffix)?;
            texts.into_iter().map(|prefix| Input::Fim { prefix, suffix: suffix.clone() }).collect()
        }
        (WirePrompt::Texts(texts), None) => texts.into_iter().map(Input::Text).collect(),
        (WirePrompt::TokenLists(_), Some(_)) => {
            return Err(ApiError::invalid("suffix", "needs a `prompt` of text"));
        }
        (WirePrompt::TokenLists(lists), None) => {
            for list in &lists {
                if list.is_empty() {
                    return Err(ApiError::invalid("prompt", "must not have an empty list"));
                }
                for id in list {
                    check_token_id("prompt", *id, model)?;
                }
            }
            lists.into_iter().map(Input::Tokens).collect()
        }
    };
    if inputs.is_empty() {
        return Err(ApiError::invalid("prompt", "must not be an empty list"));
    }
    check_items("prompt", inputs.len(), PROMPTS_MAX)?;
    Ok(inputs)
}

/// Each prompt gets a copy of the suffix, so that a body of a few megabytes could become hundreds.
fn check_copies(num_prompts: usize, suffix: &str) -> Result<(), ApiError> {
    let num_bytes = suffix.len().saturating_mul(num_prompts);
    if num_prompts <= 1 || num_bytes <= SUFFIX_COPIES_BYTES_MAX {
        return Ok(());
    }
    let rule = format!(
        "times the number of prompts must be at most {SUFFIX_COPIES_BYTES_MAX} bytes, got {num_bytes}"
    );
    Err(ApiError::invalid("suffix", rule))
}

/// The queue takes all choices at once: more than it holds would be told to come back later for ever.
fn check_sequences(num_prompts: usize, n: u32, sequences_max: usize) -> Result<(), ApiError> {
    if num_prompts * n as usize <= sequences_max {
        return Ok(());
    }
    let rule = format!(
        "times `n` must be at most {sequences_max} choices, got {num_prompts} prompts times {n}"
    );
    Err(ApiError::invalid("prompt", rule))
}

fn integer(
    field: &str,
    value: Option<Integer>,
    min: u32,
    max: u32,
) -> Result<Option<u32>, ApiError> {
    let Some(Integer(value)) = value else { return Ok(None) };
    match u32::try_from(value) {
        Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
        _ if value < i128::from(min) => {
            Err(ApiError::invalid(field, format!("must be at least {min}, got {value}")))
        }
        _ => Err(ApiError::invalid(field, format!("must be at most {max}, got {value}"))),
    }
}

fn number(field: &str, value: Option<Number>, min: f32, max: f32) -> Result<Option<f32>, ApiError> {
    let Some(Number(value)) = value else { return Ok(None) };
    if (f64::from(min)..=f64::from(max)).contains(&value) {
        return Ok(Some(value as f32));
    }
    Err(ApiError::invalid(field, format!("must be from {min} to {max}, got {value}")))
}

fn check_token_id(field: &str, id: u32, model: &ModelInfo) -> Result<(), ApiError> {
    if id < model.vocab_size {
        return Ok(());
    }
    Err(ApiError::invalid(field, format!("must have token ids below {}", model.vocab_size)))
}

/// Translates log-probabilities; `text_offset` is where the choice's text stands, and moves on.
pub(super) fn logprobs(
    form: Form,
    tokens: Vec<TokenLogprob>,
    text_offset: &mut usize,
) -> WireLogprobs {
    match form {
        Form::Text => WireLogprobs::Text(text_logprobs(tokens, text_offset)),
        Form::Chat => WireLogprobs::Chat(chat::logprobs(tokens)),
    }
}

fn text_logprobs(tokens: Vec<TokenLogprob>, text_offset: &mut usize) -> WireTextLogprobs {
    let mut wire = WireTextLogprobs::default();
    for TokenLogprob { token, logprob, top } in tokens {
        let logprob = logprob.max(LOGPROB_MIN);
        let mut likeliest: Vec<(String, f32)> = Vec::with_capacity(top.len() + 1);
        // Broken characters all read U+FFFD, and an object has a key once: the likelier stays.
        for (text, logprob) in top.into_iter().chain([(token.clone(), logprob)]) {
            if likeliest.iter().all(|(earlier, _)| *earlier != text) {
                likeliest.push((text, logprob.max(LOGPROB_MIN)));
            }
        }
        wire.text_offset.push(*text_offset);
        *text_offset += token.chars().count();
        wire.tokens.push(token);
        wire.token_logprobs.push(logprob);
        wire.top_logprobs.push(WireTop(likeliest));
    }
    wire
}

/// Adds a prompt's usage to the request's.
pub(super) fn add_usage(total: &mut WireUsage, usage: Usage) {
    total.prompt_tokens += usage.num_prompt_tokens;
    total.completion_tokens += usage.num_completion_tokens;
    total.total_tokens = total.prompt_tokens + total.completion_tokens;
    total.prompt_tokens_details.cached_tokens += usage.num_cached_tokens;
}

/// Returns the wire's name of a field of the vocabulary.
pub(super) fn wire_name(field: &'static str) -> &'static str {
    match field {
        "input" | "prefix" => "prompt",
        "num_choices" => "n",
        other => other,
    }
}
