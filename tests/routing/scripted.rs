//! A target that does what it is told and counts how often it was asked.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture, stream};
use lacuna::{
    completion::{CompletionChunk, CompletionRequest, FinishReason, Usage},
    provider::{
        CompletionEvent, CompletionStream, ModelInfo, Provider, ProviderError, ProviderErrorKind,
    },
};

/// What a target does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Play {
    /// Answers its own name after this time.
    Answer(Duration),
    /// Refuses at the door.
    Refuse(ProviderError),
    /// Begins, and then fails before there is text.
    CutBefore,
    /// Fails after some text.
    CutAfter,
    /// Never answers.
    Hang,
    /// Begins, and never says a word.
    Silent,
    /// Stalls after some text.
    Stall,
    /// Says empty pieces for ever, without a pause.
    Babble,
    /// Says an empty piece, then this text after some time.
    Empty(Duration),
}

/// See the module.
pub(crate) struct Scripted {
    model: Arc<ModelInfo>,
    play: Mutex<Play>,
    is_ready: AtomicBool,
    expected: Mutex<Option<Duration>>,
    num_calls: AtomicUsize,
    open: Arc<()>,
    /// Where wishes to stop a choice come in.
    ends: (mpsc::Sender<u32>, Mutex<mpsc::Receiver<u32>>),
}

/// Makes an error of this kind.
pub(crate) fn failure(kind: ProviderErrorKind) -> Play {
    Play::Refuse(ProviderError::new(kind, "scripted"))
}

impl Scripted {
    pub(crate) fn new(name: &str, play: Play) -> Arc<Self> {
        Arc::new(Self {
            model: Arc::new(ModelInfo {
                name: name.to_owned(),
                engine: "scripted".to_owned(),
                max_context_tokens: 4096,
                has_fim: name != "chat",
                has_repo_fim: false,
                has_chat: true,
                vocab_size: 100,
            }),
            play: Mutex::new(play),
            is_ready: AtomicBool::new(true),
            expected: Mutex::new(None),
            num_calls: AtomicUsize::new(0),
            open: Arc::new(()),
            ends: {
                let (ends, ended) = mpsc::channel();
                (ends, Mutex::new(ended))
            },
        })
    }

    pub(crate) fn set(&self, play: Play) {
        *self.play.lock().unwrap() = play;
    }

    pub(crate) fn set_ready(&self, is_ready: bool) {
        self.is_ready.store(is_ready, Ordering::Relaxed);
    }

    pub(crate) fn set_expected(&self, expected: Option<Duration>) {
        *self.expected.lock().unwrap() = expected;
    }

    /// Returns how often it was asked.
    pub(crate) fn num_calls(&self) -> usize {
        self.num_calls.load(Ordering::Relaxed)
    }

    /// Returns which choices it was told to stop.
    pub(crate) fn ended(&self) -> Vec<u32> {
        self.ends.1.lock().unwrap().try_iter().collect()
    }

    /// Returns how many requests it works on.
    pub(crate) fn num_open(&self) -> usize {
        Arc::strong_count(&self.open) - 1
    }

    async fn start(&self, held: Arc<()>) -> Result<CompletionStream, ProviderError> {
        let play = self.play.lock().unwrap().clone();
        let name = self.model.name.clone();
        match &play {
            Play::Refuse(error) => return Err(error.clone()),
            Play::Hang => return std::future::pending().await,
            Play::Answer(_) | Play::CutBefore | Play::CutAfter => {}
            Play::Silent | Play::Stall | Play::Empty(_) => {}
            Play::Babble => return Ok(babble(held)),
        }
        let cut = ProviderError::new(ProviderErrorKind::UpstreamMalformed, "cut");
        let answer = [chunk(&name, None), chunk("", Some(FinishReason::Stop)), Step::Done];
        let steps = match play {
            Play::Answer(wait) => [vec![Step::Wait(wait)], answer.to_vec()].concat(),
            Play::Empty(wait) => {
                [vec![chunk("", None), Step::Wait(wait)], answer.to_vec()].concat()
            }
            Play::CutBefore => vec![chunk("", None), Step::Fail(cut)],
            Play::CutAfter => vec![chunk("some", None), Step::Fail(cut)],
            Play::Stall => vec![chunk("some", None), Step::Wait(Duration::MAX)],
            Play::Silent | Play::Hang | Play::Refuse(_) | Play::Babble => {
                vec![Step::Wait(Duration::MAX)]
            }
        };
        let events = CompletionStream::new(stream::unfold((steps.into_iter(), held), play_on));
        Ok(events.with_ends(self.ends.0.clone()))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(Duration),
    Chunk(CompletionChunk),
    Done,
    Fail(ProviderError),
}

fn chunk(text: &str, finish_reason: Option<FinishReason>) -> Step {
    Step::Chunk(CompletionChunk {
        choice_index: 0,
        text: text.to_owned(),
        logprobs: Vec::new(),
        finish_reason,
        usage: None,
        num_choice_tokens: None,
    })
}

fn babble(held: Arc<()>) -> CompletionStream {
    let Step::Chunk(empty) = chunk("", None) else { unreachable!("it is a piece") };
    let pieces = stream::unfold((empty, held), async |(empty, held)| {
        Some((Ok(CompletionEvent::Chunk(empty.clone())), (empty, held)))
    });
    CompletionStream::new(pieces)
}

type Script = (std::vec::IntoIter<Step>, Arc<()>);
type Event = Result<CompletionEvent, ProviderError>;

async fn play_on((mut steps, held): Script) -> Option<(Event, Script)> {
    loop {
        let event = match steps.next()? {
            Step::Wait(Duration::MAX) => return std::future::pending().await,
            Step::Wait(wait) => {
                tokio::time::sleep(wait).await;
                continue;
            }
            Step::Chunk(chunk) => Ok(CompletionEvent::Chunk(chunk)),
            Step::Done => Ok(CompletionEvent::Done(Usage::default())),
            Step::Fail(error) => Err(error),
        };
        return Some((event, (steps, held)));
    }
}

impl Provider for Scripted {
    fn model(&self) -> Arc<ModelInfo> {
        Arc::clone(&self.model)
    }

    fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    fn expected_first_token(&self, _: &CompletionRequest) -> Option<Duration> {
        *self.expected.lock().unwrap()
    }

    fn complete(
        &self,
        _: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        self.num_calls.fetch_add(1, Ordering::Relaxed);
        let held = Arc::clone(&self.open);
        async move { self.start(held).await }.boxed()
    }
}
