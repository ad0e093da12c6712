//! The source text of one prompt and its answer on their way to the log, where somebody has asked for it.

use crate::{
    completion::{CompletionRequest, Input},
    provider::{CompletionEvent, ProviderError},
    telemetry::{PromptContent, record_completion_content, record_prompt_content},
};

/// What a prompt was answered so far; written when it is dropped.
#[derive(Debug)]
pub(super) struct ContentLog {
    request_id: String,
    texts: Vec<String>,
}

impl ContentLog {
    /// Writes what is asked, and begins to gather the answer.
    pub(super) fn open(request_id: String, request: &CompletionRequest) -> Self {
        let conversation;
        let (form, prefix, suffix) = match &request.input {
            Input::Fim { prefix, suffix } => ("fim", prefix.as_str(), suffix.as_str()),
            Input::Text(text) => ("text", text.as_str(), ""),
            Input::Tokens(_) => ("tokens", "", ""),
            Input::Chat(messages) => {
                let said = messages
                    .iter()
                    .map(|message| format!("{}: {}", message.role.as_str(), message.content));
                conversation = said.collect::<Vec<_>>().join("\n");
                ("chat", conversation.as_str(), "")
            }
        };
        let context =
            request.context.iter().map(|item| format!("{}:\n{}", item.name, item.content));
        let context = context.collect::<Vec<_>>().join("\n");
        record_prompt_content(&PromptContent {
            request_id: &request_id,
            form,
            prefix,
            suffix,
            context: &context,
        });
        Self { request_id, texts: Vec::new() }
    }

    /// Gathers what is handed on.
    pub(super) fn take(&mut self, event: &Result<CompletionEvent, ProviderError>) {
        let Ok(CompletionEvent::Chunk(chunk)) = event else { return };
        let index = chunk.choice_index as usize;
        if self.texts.len() <= index {
            self.texts.resize(index + 1, String::new());
        }
        self.texts[index].push_str(&chunk.text);
    }
}

impl Drop for ContentLog {
    fn drop(&mut self) {
        for (index, text) in self.texts.iter().enumerate() {
            record_completion_content(&self.request_id, index, text);
        }
    }
}
