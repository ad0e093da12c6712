//! Spans: begun, told of, and handed to a sink when they are dropped.

use std::{
    borrow::Cow,
    collections::hash_map::RandomState,
    fmt,
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use crate::trace::SpanContext;

/// Attributes of a span or an event; more are left out.
const ATTRIBUTES_MAX: usize = 32;
/// Events of a span; more are left out.
const EVENTS_MAX: usize = 32;
/// Bytes of a text; the rest is cut.
const TEXT_BYTES_MAX: usize = 256;

/// What an attribute says.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A word.
    Text(Cow<'static, str>),
    /// A count.
    Integer(i64),
    /// A measure.
    Float(f64),
    /// Yes or no.
    Bool(bool),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(mut text: String) -> Self {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        Self::Text(Cow::Owned(text))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Integer(number.into())
    }
}

impl From<bool> for Value {
    fn from(is_so: bool) -> Self {
        Self::Bool(is_so)
    }
}

impl From<Duration> for Value {
    /// In seconds.
    fn from(time: Duration) -> Self {
        Self::Float(time.as_secs_f64())
    }
}

/// Which side of a call a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Neither.
    Internal,
    /// Answers somebody.
    Server,
    /// Asks somebody.
    Client,
}

/// A moment within a span.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanEvent {
    /// What happened; of a closed set.
    pub name: &'static str,
    /// When.
    pub at: SystemTime,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Value)>,
}

/// A span that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishedSpan {
    /// Its name across processes.
    pub context: SpanContext,
    /// The span that it is part of.
    pub parent_id: Option<u64>,
    /// What was done; of a closed set, but for names of models and methods.
    pub name: Cow<'static, str>,
    /// Which side of a call it is.
    pub kind: SpanKind,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// What happened meanwhile.
    pub events: Vec<SpanEvent>,
    /// Whether it failed.
    pub is_error: bool,
}

/// Who takes spans that have ended. Called in the path of requests, so it must not wait.
pub trait SpanSink: Send + Sync + 'static {
    /// Takes a span.
    fn take(&self, span: FinishedSpan);
}

/// Begins traces, of which it records a share; does nothing where nobody wants them.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Recorder>>);

struct Recorder {
    sink: Box<dyn SpanSink>,
    ratio: f64,
    // Keyed by the system's randomness: good enough for ids, which protect nothing.
    keys: [RandomState; 3],
    num_drawn: AtomicU64,
}

impl Recorder {
    /// Returns a number that no other span has, and that is never 0.
    fn draw(&self) -> u64 {
        let number = self.num_drawn.fetch_add(1, Ordering::Relaxed);
        self.keys[0].hash_one(number).max(1)
    }

    fn draw_trace(&self) -> u128 {
        let number = self.num_drawn.fetch_add(1, Ordering::Relaxed);
        let halves = [&self.keys[1], &self.keys[2]].map(|key| u128::from(key.hash_one(number)));
        (halves[0] << 64 | halves[1]).max(1)
    }

    /// Decides by the trace's id alone, as all services of a trace that have the same ratio then do.
    fn samples(&self, trace_id: u128) -> bool {
        let low = (trace_id as u64) >> 1;
        (low as f64) < self.ratio * (u64::MAX >> 1) as f64 || self.ratio >= 1.0
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("is_on", &self.0.is_some()).finish()
    }
}

impl Tracer {
    /// Hands spans of this share of traces to `sink`: of those that begin here. Who sends a trace along decides for it.
    pub fn new(sink: Box<dyn SpanSink>, ratio: f64) -> Self {
        let keys = [RandomState::new(), RandomState::new(), RandomState::new()];
        Self(Some(Arc::new(Recorder { sink, ratio, keys, num_drawn: AtomicU64::new(0) })))
    }

    /// Returns whether anybody wants traces.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins the part of a trace that is done here, under the span that `incoming` names.
    pub fn begin(&self, name: impl Into<Cow<'static, str>>, incoming: Option<SpanContext>) -> Span {
        let Some(recorder) = &self.0 else { return Span::default() };
        let trace_id = incoming.map_or_else(|| recorder.draw_trace(), |span| span.trace_id);
        let is_sampled =
            incoming.map_or_else(|| recorder.samples(trace_id), |span| span.is_sampled);
        let context = SpanContext { trace_id, span_id: recorder.draw(), is_sampled };
        let parent_id = incoming.map(|span| span.span_id);
        Span::open(recorder, context, parent_id, name.into(), SpanKind::Server)
    }
}

/// A span that others are begun under; nothing where nobody traces.
#[derive(Clone, Default)]
pub struct Parent(Option<(Arc<Recorder>, SpanContext)>);

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Parent").field(&self.context()).finish()
    }
}

impl Parent {
    /// Returns its name, for services elsewhere that are asked on its behalf.
    pub fn context(&self) -> Option<SpanContext> {
        self.0.as_ref().map(|(_, context)| *context)
    }

    /// Returns whether what is done under it is recorded.
    pub fn is_recorded(&self) -> bool {
        self.context().is_some_and(|context| context.is_sampled)
    }

    /// Begins a span under it.
    pub fn child(&self, name: impl Into<Cow<'static, str>>, kind: SpanKind) -> Span {
        let Some((recorder, context)) = &self.0 else { return Span::default() };
        let own = SpanContext { span_id: recorder.draw(), ..*context };
        Span::open(recorder, own, Some(context.span_id), name.into(), kind)
    }

    /// Returns a span under it of what has been done already.
    pub fn past(&self, name: &'static str, began: Instant, ended: Instant) -> Span {
        let mut span = self.child(name, SpanKind::Internal);
        if let Some(open) = &mut span.open {
            open.span.began = open.began_at - open.began.saturating_duration_since(began);
            open.ended = Some(open.began_at - open.began.saturating_duration_since(ended));
        }
        span
    }
}

/// A span under way; dropping it ends it.
#[derive(Default)]
pub struct Span {
    parent: Parent,
    open: Option<Box<Open>>,
}

/// What is recorded of a span.
struct Open {
    span: FinishedSpan,
    began: Instant,
    began_at: SystemTime,
    /// Where it ended before it was told of.
    ended: Option<SystemTime>,
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.parent.context()).finish()
    }
}

impl Span {
    fn open(
        recorder: &Arc<Recorder>,
        context: SpanContext,
        parent_id: Option<u64>,
        name: Cow<'static, str>,
        kind: SpanKind,
    ) -> Self {
        let parent = Parent(Some((Arc::clone(recorder), context)));
        if !context.is_sampled {
            return Self { parent, open: None };
        }
        let began_at = SystemTime::now();
        let span = FinishedSpan {
            context,
            parent_id,
            name,
            kind,
            began: began_at,
            ended: began_at,
            attributes: Vec::new(),
            events: Vec::new(),
            is_error: false,
        };
        let open = Open { span, began: Instant::now(), began_at, ended: None };
        Self { parent, open: Some(Box::new(open)) }
    }

    /// Returns what others are begun under that are part of it.
    pub fn parent(&self) -> Parent {
        self.parent.clone()
    }

    /// Returns whether it is recorded, for whoever would compute what it is told.
    pub fn is_recorded(&self) -> bool {
        self.open.is_some()
    }

    /// Calls it otherwise.
    pub fn rename(&mut self, name: impl Into<Cow<'static, str>>) {
        if let Some(open) = &mut self.open {
            open.span.name = name.into();
        }
    }

    /// Says something of it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        let Some(open) = &mut self.open else { return };
        if open.span.attributes.len() < ATTRIBUTES_MAX {
            open.span.attributes.push((key, value.into()));
        }
    }

    /// Says something of it, where it is known.
    pub fn set_known(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    /// Notes that something happened now.
    pub fn event(&mut self, name: &'static str, attributes: &[(&'static str, Value)]) {
        let Some(open) = &mut self.open else { return };
        if open.span.events.len() < EVENTS_MAX {
            let attributes = attributes.iter().take(ATTRIBUTES_MAX).cloned().collect();
            let at = open.began_at + open.began.elapsed();
            open.span.events.push(SpanEvent { name, at, attributes });
        }
    }

    /// Says that it failed, with a word of a closed set for the reason.
    pub fn fail(&mut self, label: &'static str) {
        self.set("error.type", label);
        if let Some(open) = &mut self.open {
            open.span.is_error = true;
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let (Some(open), Some((recorder, _))) = (self.open.take(), &self.parent.0) else { return };
        let Open { mut span, began, began_at, ended } = *open;
        span.ended = ended.unwrap_or_else(|| began_at + began.elapsed());
        recorder.sink.take(span);
    }
}
