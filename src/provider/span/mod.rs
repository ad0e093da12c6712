//! The span of a provider's work: from its being asked to the last event, with what OpenTelemetry calls each fact.
//!
//! # Source
//! <https://opentelemetry.io/docs/specs/semconv/gen-ai/>; what has no name there begins with `lacuna.`.

use crate::{
    completion::{CompletionRequest, Input, Usage},
    provider::{CompletionEvent, ModelInfo, ProviderError},
    trace::{Span, SpanKind},
};

/// The work of a provider for one completion. Dropped before the last event it was called off.
#[derive(Debug, Default)]
pub(super) struct ProviderSpan {
    span: Span,
    has_text: bool,
    /// Whether all was said, or failed.
    has_ended: bool,
    num_choices_left: u32,
    /// Tokens so far, where the provider counts along.
    usage: Option<Usage>,
    num_preemptions: u32,
}

impl ProviderSpan {
    /// Begins under the span that asks, which from now on is this one.
    pub(super) fn begin(
        model: &ModelInfo,
        kind: SpanKind,
        request: &mut CompletionRequest,
    ) -> Self {
        if request.trace.context().is_none() {
            return Self::default();
        }
        let operation = match request.input {
            Input::Chat(_) => "chat",
            Input::Fim { .. } | Input::Text(_) | Input::Tokens(_) => "text_completion",
        };
        let mut span = request.trace.child(format!("{operation} {}", model.name), kind);
        span.set("gen_ai.operation.name", operation);
        span.set("gen_ai.provider.name", model.engine.clone());
        span.set("gen_ai.request.model", model.name.clone());
        span.set_known("gen_ai.request.max_tokens", request.max_tokens);
        if request.num_choices > 1 {
            span.set("gen_ai.request.choice.count", request.num_choices);
        }
        request.trace = span.parent();
        Self {
            span,
            has_text: false,
            has_ended: false,
            num_choices_left: request.num_choices,
            usage: None,
            num_preemptions: 0,
        }
    }

    /// Notes what is handed on.
    pub(super) fn take(&mut self, event: &Result<CompletionEvent, ProviderError>) {
        if !self.span.is_recorded() {
            return;
        }
        match event {
            Ok(CompletionEvent::Chunk(chunk)) => {
                self.usage = chunk.usage.or(self.usage);
                if !self.has_text && !chunk.text.is_empty() {
                    self.has_text = true;
                    self.span.event("first text", &[]);
                }
                if let Some(reason) = chunk.finish_reason {
                    let choice = ("gen_ai.choice.index", chunk.choice_index.into());
                    let reason = ("gen_ai.response.finish_reason", reason.as_label().into());
                    self.span.event("choice ended", &[choice, reason]);
                    // Who has the last word need not wait for the count.
                    self.num_choices_left = self.num_choices_left.saturating_sub(1);
                    self.has_ended |= self.num_choices_left == 0;
                }
            }
            Ok(CompletionEvent::Done(usage)) => {
                self.has_ended = true;
                self.usage = Some(*usage);
            }
            Err(error) => self.fail(error),
        }
    }

    /// Notes how often the engine has begun anew.
    pub(super) fn preempted(&mut self, num_preemptions: u32) {
        if num_preemptions > self.num_preemptions {
            self.num_preemptions = num_preemptions;
            self.span.event("preempted", &[("lacuna.preemptions", num_preemptions.into())]);
        }
    }

    /// Notes that there is no answer, or not all of it.
    pub(super) fn fail(&mut self, error: &ProviderError) {
        self.has_ended = true;
        self.span.fail(error.kind.as_label());
    }
}

impl Drop for ProviderSpan {
    fn drop(&mut self) {
        if let Some(usage) = self.usage {
            self.span.set("gen_ai.usage.input_tokens", usage.num_prompt_tokens);
            self.span.set("gen_ai.usage.output_tokens", usage.num_completion_tokens);
            self.span.set("gen_ai.usage.cache_read.input_tokens", usage.num_cached_tokens);
        }
        if !self.has_ended {
            self.span.set("lacuna.outcome", "cancelled");
        }
    }
}

#[cfg(test)]
mod tests;
