//! The time of a request, over a provider that never ends.

use futures_util::{FutureExt as _, future::BoxFuture};

use super::*;
use crate::{
    completion::{CompletionChunk, Input},
    provider::ProviderErrorKind,
};

/// Tells one piece and the deadline that it was given, and then nothing more.
struct Stalling;

impl Provider for Stalling {
    fn model(&self) -> Arc<ModelInfo> {
        Arc::new(ModelInfo {
            name: "stalling".to_owned(),
            engine: "test".to_owned(),
            max_context_tokens: 100,
            has_fim: true,
            has_repo_fim: false,
            has_chat: false,
            vocab_size: 10,
        })
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn complete(
        &self,
        request: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        let left = request.deadline.map(|deadline| deadline - Instant::now());
        let chunk = CompletionChunk {
            choice_index: 0,
            text: format!("{} s", left.map_or(0, |left| left.as_secs_f64().round() as u64)),
            logprobs: Vec::new(),
            finish_reason: None,
            usage: None,
            num_choice_tokens: None,
        };
        let first = futures_util::future::ready(Ok(CompletionEvent::Chunk(chunk)));
        let events = futures_util::StreamExt::chain(stream::once(first), stream::pending());
        std::future::ready(Ok(CompletionStream::new(events))).boxed()
    }
}

fn service() -> CompletionService {
    let limits = CompletionConfig {
        max_tokens_default: 64,
        max_tokens_limit: 100,
        num_choices_limit: 4,
        num_stops_limit: 4,
        suffix_share: 0.2,
        context_share: 0.3,
        ranks_context: true,
        masks_secrets: true,
        line_start_layout: None,
        tokenizer_cache_bytes: 0,
        timeout: Duration::from_mins(1),
    };
    CompletionService::new(Arc::new(Stalling), limits, 4)
}

fn request(deadline: Option<Instant>) -> CompletionRequest {
    CompletionRequest { deadline, ..CompletionRequest::of(Input::Text("a".to_owned())) }
}

async fn stall(asked: Option<u64>, told: &str, given_up: u64) {
    let began = tokio::time::Instant::now();
    let deadline = asked.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let account = Account::open("id", "test");
    let mut stream = service().complete(request(deadline), account).await.unwrap();
    let Some(Ok(CompletionEvent::Chunk(chunk))) = stream.next().await else {
        panic!("there is a first piece");
    };
    assert_eq!(chunk.text, told);
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind, ProviderErrorKind::DeadlineExceeded);
    assert_eq!(began.elapsed().as_secs_f64().round() as u64, given_up);
    assert!(stream.next().await.is_none());
}

#[test]
fn the_shorter_time_counts_and_a_stalled_provider_is_given_up_on() {
    let rows = [(None, "60 s", 61), (Some(5), "5 s", 6), (Some(600), "60 s", 61)];
    for (asked, told, given_up) in rows {
        // A runtime each: once it has waited, its paused clock is ahead of the system's.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(stall(asked, told, given_up));
    }
}
