//! Tests of what a provider's span says of each way that its work may end.

use super::*;
use crate::{
    completion::{CompletionChunk, FinishReason},
    provider::ProviderErrorKind,
    trace::{FinishedSpan, tests::Kept},
};

fn request() -> CompletionRequest {
    CompletionRequest {
        max_tokens: Some(7),
        num_choices: 2,
        ..CompletionRequest::of(Input::Text("source".to_owned()))
    }
}

const MODEL: ModelInfo = ModelInfo {
    name: String::new(),
    engine: String::new(),
    max_context_tokens: 0,
    has_fim: true,
    has_repo_fim: false,
    has_chat: false,
    vocab_size: 0,
};

fn chunk(choice_index: u32, text: &str, is_last: bool) -> CompletionEvent {
    let usage = Usage { num_completion_tokens: 3, ..Usage::default() };
    CompletionEvent::Chunk(CompletionChunk {
        choice_index,
        text: text.to_owned(),
        logprobs: Vec::new(),
        finish_reason: is_last.then_some(FinishReason::Stop),
        usage: Some(usage),
        num_choice_tokens: None,
    })
}

/// Returns the span of work that went so.
fn span(work: impl FnOnce(&mut ProviderSpan)) -> FinishedSpan {
    let kept = Kept::default();
    let root = kept.tracer(1.0).begin("root", None);
    let mut request = CompletionRequest { trace: root.parent(), ..request() };
    let mut span = ProviderSpan::begin(&MODEL, SpanKind::Internal, &mut request);
    assert_ne!(request.trace.context(), root.parent().context(), "what it asks is asked by it");
    work(&mut span);
    drop(span);
    let [span] = kept.spans().try_into().unwrap();
    span
}

fn says(span: &FinishedSpan, key: &str) -> Option<crate::trace::Value> {
    span.attributes.iter().find(|(known, _)| *known == key).map(|(_, value)| value.clone())
}

#[test]
fn how_it_ended_is_told() {
    let failure = || Err(ProviderError::new(ProviderErrorKind::Unavailable, "gone"));
    let unfinished = span(|span| span.take(&Ok(chunk(0, "a", true))));
    assert_eq!(says(&unfinished, "lacuna.outcome"), Some("cancelled".into()));
    assert_eq!(says(&unfinished, "gen_ai.usage.output_tokens"), Some(3_u32.into()));
    // Who has the last words of all choices need not wait for the count.
    let finished = span(|span| {
        span.take(&Ok(chunk(0, "a", true)));
        span.take(&Ok(chunk(1, "b", true)));
    });
    assert_eq!((says(&finished, "lacuna.outcome"), finished.is_error), (None, false));
    let counted = span(|span| span.take(&Ok(CompletionEvent::Done(Usage::default()))));
    assert_eq!(says(&counted, "lacuna.outcome"), None);
    let failed = span(|span| span.take(&failure()));
    assert_eq!(says(&failed, "lacuna.outcome"), None);
    assert_eq!((says(&failed, "error.type"), failed.is_error), (Some("unavailable".into()), true));
}

#[test]
fn what_happens_meanwhile_is_an_event_and_a_preemption_is_told_once() {
    let span = span(|span| {
        span.take(&Ok(chunk(0, "", false)));
        span.preempted(0);
        span.take(&Ok(chunk(0, "secret", false)));
        for num_preemptions in [1, 1, 2, 2] {
            span.preempted(num_preemptions);
        }
        span.take(&Ok(chunk(0, "secret", true)));
    });
    let names: Vec<&str> = span.events.iter().map(|event| event.name).collect();
    assert_eq!(names, ["first text", "preempted", "preempted", "choice ended"]);
    assert_eq!(span.events[2].attributes, [("lacuna.preemptions", 2_u32.into())]);
    assert!(!format!("{span:?}").contains("secret"));
}

#[test]
fn without_a_trace_nothing_is_begun() {
    let mut request = request();
    let mut span = ProviderSpan::begin(&MODEL, SpanKind::Client, &mut request);
    span.take(&Ok(chunk(0, "a", false)));
    assert_eq!(request.trace.context(), None);
}
