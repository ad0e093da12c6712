//! From a completion back to the wire.

use crate::api::{
    finish_reason_name,
    gitlab::wire::answer::{
        WireChoice, WireMetadata, WireModel, WireSuggestions, WireTokens, WireV2Answer,
        WireV2Metadata, WireV2Model,
    },
};
use crate::completion::{Choice, Completion, FinishReason, Language, Usage};
use crate::config::GatewayConfig;
use crate::provider::ModelInfo;

/// What an answer says beside its text.
#[derive(Clone, Copy, Debug)]
pub(in crate::api::gitlab) struct Said<'a> {
    pub(in crate::api::gitlab) model: &'a ModelInfo,
    pub(in crate::api::gitlab) language: Option<Language>,
    pub(in crate::api::gitlab) flags: &'a [String],
    pub(in crate::api::gitlab) config: &'a GatewayConfig,
    /// Seconds since 1970.
    pub(in crate::api::gitlab) created: u64,
}

impl Said<'_> {
    fn lang(&self) -> &'static str {
        self.language.map_or("", Language::name)
    }

    /// The original says `length` always; no client is known to read it, so the truth is told unless it is asked not to.
    fn finish_reason(&self, reason: FinishReason) -> &'static str {
        let told = if self.config.has_true_finish_reason { reason } else { FinishReason::Length };
        finish_reason_name(told)
    }

    /// Choices that say nothing, or what an earlier one says, are left out.
    fn choices(&self, choices: Vec<Choice>) -> Vec<WireChoice> {
        let mut wire: Vec<WireChoice> = Vec::with_capacity(choices.len());
        for Choice { text, finish_reason, .. } in choices {
            if text.is_empty() || wire.iter().any(|earlier| earlier.text == text) {
                continue;
            }
            let index = wire.len() as u32;
            wire.push(WireChoice { text, index, finish_reason: self.finish_reason(finish_reason) });
        }
        wire
    }
}

/// Translates a completion for a v2 endpoint.
pub(in crate::api::gitlab) fn v2(completion: Completion, said: Said<'_>) -> WireV2Answer<'_> {
    let usage = completion.usage;
    let was_cut = completion.choices.iter().any(|c| c.finish_reason == FinishReason::Length);
    let choices = said.choices(completion.choices);
    let tokens = (!choices.is_empty()).then(|| tokens(usage, was_cut));
    WireV2Answer {
        id: "id",
        model: WireV2Model {
            engine: &said.model.engine,
            name: &said.model.name,
            lang: said.lang(),
            tokens_consumption_metadata: tokens,
            region: said.config.region.as_deref(),
        },
        experiments: [],
        object: "text_completion",
        created: said.created,
        choices,
        metadata: WireV2Metadata { enabled_feature_flags: said.flags },
    }
}

fn tokens(usage: Usage, was_cut: bool) -> WireTokens {
    WireTokens {
        input_tokens: usage.num_prompt_tokens,
        output_tokens: usage.num_completion_tokens,
        max_output_tokens_used: was_cut,
        context_tokens_sent: usage.num_context_tokens_sent,
        context_tokens_used: usage.num_context_tokens_used,
    }
}

/// Translates a completion for a v3 or v4 endpoint.
pub(in crate::api::gitlab) fn suggestions(
    completion: Completion,
    said: Said<'_>,
) -> WireSuggestions<'_> {
    let model = WireModel { engine: &said.model.engine, name: &said.model.name, lang: said.lang() };
    WireSuggestions {
        choices: said.choices(completion.choices),
        metadata: WireMetadata {
            model,
            timestamp: said.created,
            enabled_feature_flags: said.flags,
            region: said.config.region.as_deref(),
        },
        model,
    }
}
