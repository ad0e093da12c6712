//! A provider that plays a script and remembers what it was asked.

use std::sync::{Arc, Mutex};

use futures_util::{future::BoxFuture, stream};
use lacuna::{
    completion::{CompletionChunk, CompletionRequest, FinishReason, Input, TokenLogprob, Usage},
    provider::{CompletionEvent, CompletionStream, ModelInfo, Provider, ProviderError},
};
use tokio::sync::watch;

use crate::support::within;

/// One event of a script.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Hands a piece on.
    Chunk(CompletionChunk),
    /// Ends well.
    Done(Usage),
    /// Ends badly.
    Fail(ProviderError),
    /// Waits for [`ScriptedProvider::open_gate`], for ever if it does not come.
    Gate,
}

/// What every request gets.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// These steps.
    Play(Vec<Step>),
    /// Its own text before the cursor, a character at a time.
    Echo,
    /// A refusal before anything starts.
    Refuse(ProviderError),
    /// Nothing, ever: it waits before it starts.
    Queue,
    /// Like an empty echo, but the provider says that it is not ready.
    Starting,
}

/// The usage that scripts end with.
pub(crate) const USAGE: Usage = Usage {
    num_prompt_tokens: 11,
    num_cached_tokens: 8,
    num_context_tokens_sent: 5,
    num_context_tokens_used: 3,
    num_completion_tokens: 2,
};

/// A piece of a choice.
pub(crate) fn chunk(choice_index: u32, text: &str) -> Step {
    Step::Chunk(CompletionChunk {
        choice_index,
        text: text.to_owned(),
        logprobs: Vec::new(),
        finish_reason: None,
        usage: None,
        num_choice_tokens: None,
    })
}

/// The last piece of a choice.
pub(crate) fn end(choice_index: u32, text: &str, finish_reason: FinishReason) -> Step {
    Step::Chunk(CompletionChunk {
        choice_index,
        text: text.to_owned(),
        logprobs: Vec::new(),
        finish_reason: Some(finish_reason),
        usage: None,
        num_choice_tokens: None,
    })
}

/// A piece with one token's log-probability.
pub(crate) fn token(text: &str, logprob: f32, top: &[(&str, f32)]) -> Step {
    Step::Chunk(CompletionChunk {
        choice_index: 0,
        text: text.to_owned(),
        logprobs: vec![TokenLogprob {
            token: text.to_owned(),
            logprob,
            top: top.iter().map(|(text, logprob)| ((*text).to_owned(), *logprob)).collect(),
        }],
        finish_reason: None,
        usage: None,
        num_choice_tokens: None,
    })
}

/// The step with the tokens so far.
pub(crate) fn counted(step: Step, usage: Usage) -> Step {
    match step {
        Step::Chunk(chunk) => Step::Chunk(CompletionChunk { usage: Some(usage), ..chunk }),
        Step::Done(_) | Step::Fail(_) | Step::Gate => panic!("only pieces are counted"),
    }
}

/// Two pieces and an end: "a + b".
pub(crate) fn sum() -> Script {
    Script::Play(vec![
        chunk(0, "a +"),
        chunk(0, ""),
        end(0, " b", FinishReason::Stop),
        Step::Done(USAGE),
    ])
}

/// See the module.
pub(crate) struct ScriptedProvider {
    name: &'static str,
    has_chat: bool,
    script: Script,
    has_fim: bool,
    requests: Mutex<Vec<CompletionRequest>>,
    num_open: Arc<watch::Sender<usize>>,
    gate: watch::Sender<bool>,
}

impl ScriptedProvider {
    pub(crate) fn new(script: Script) -> Self {
        Self::named("org/scripted", script)
    }

    /// Makes one whose model has another name.
    pub(crate) fn named(name: &'static str, script: Script) -> Self {
        Self {
            name,
            has_chat: true,
            script,
            has_fim: true,
            requests: Mutex::default(),
            num_open: Arc::new(watch::Sender::new(0)),
            gate: watch::Sender::new(false),
        }
    }

    /// Makes its model one without a chat template.
    pub(crate) fn without_chat(self) -> Self {
        Self { has_chat: false, ..self }
    }

    /// Makes one whose model continues conversations and fills no gaps.
    pub(crate) fn without_fim(script: Script) -> Self {
        Self { has_fim: false, ..Self::new(script) }
    }

    /// Returns what was asked since the last call.
    pub(crate) fn take_requests(&self) -> Vec<CompletionRequest> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }

    /// Lets scripts pass their gates.
    pub(crate) fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// Waits until so many completions are under way.
    pub(crate) async fn wait_for_open(&self, num_open: usize) {
        let mut changes = self.num_open.subscribe();
        let reached = changes.wait_for(|open| *open == num_open);
        within(&format!("{num_open} completions under way"), reached).await.unwrap();
    }
}

/// Counts a completion under way, until it is dropped.
struct OpenCount(Arc<watch::Sender<usize>>);

impl OpenCount {
    fn new(num_open: &Arc<watch::Sender<usize>>) -> Self {
        num_open.send_modify(|open| *open += 1);
        Self(num_open.clone())
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl Provider for ScriptedProvider {
    fn model(&self) -> Arc<ModelInfo> {
        Arc::new(ModelInfo {
            name: self.name.to_owned(),
            engine: "lacuna".to_owned(),
            max_context_tokens: 2048,
            has_fim: self.has_fim,
            has_repo_fim: false,
            has_chat: self.has_chat,
            vocab_size: 1000,
        })
    }

    fn is_ready(&self) -> bool {
        !matches!(self.script, Script::Starting)
    }

    fn complete(
        &self,
        request: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        let open = OpenCount::new(&self.num_open);
        self.requests.lock().unwrap().push(request.clone());
        Box::pin(async move {
            match &self.script {
                Script::Play(steps) => Ok(play(steps.clone(), self.gate.subscribe(), open)),
                Script::Echo | Script::Starting => {
                    Ok(play(echo(&request), self.gate.subscribe(), open))
                }
                Script::Refuse(error) => Err(error.clone()),
                Script::Queue => {
                    let _open = open;
                    std::future::pending().await
                }
            }
        })
    }
}

fn echo(request: &CompletionRequest) -> Vec<Step> {
    let text = match &request.input {
        Input::Fim { prefix, .. } => prefix.clone(),
        Input::Text(text) => text.clone(),
        Input::Tokens(ids) => format!("{ids:?}"),
        Input::Chat(messages) => {
            messages.last().map_or_else(String::new, |last| last.content.clone())
        }
    };
    let mut steps = Vec::new();
    for choice_index in 0..request.num_choices {
        steps.extend(text.chars().map(|c| chunk(choice_index, &c.to_string())));
        steps.push(end(choice_index, "", FinishReason::Length));
    }
    steps.push(Step::Done(USAGE));
    steps
}

fn play(steps: Vec<Step>, gate: watch::Receiver<bool>, open: OpenCount) -> CompletionStream {
    let state = (steps.into_iter(), gate, open);
    CompletionStream::new(stream::unfold(state, async |(mut steps, mut gate, open)| {
        loop {
            let event = match steps.next()? {
                Step::Chunk(chunk) => Ok(CompletionEvent::Chunk(chunk)),
                Step::Done(usage) => Ok(CompletionEvent::Done(usage)),
                Step::Fail(error) => Err(error),
                Step::Gate => {
                    gate.wait_for(|is_open| *is_open).await.ok()?;
                    continue;
                }
            };
            return Some((event, (steps, gate, open)));
        }
    }))
}
