//! An answer of which nothing is handed on before its end, so that where a target fails midway another begins it again.

use futures_util::stream;

use crate::{
    completion::CompletionRequest,
    provider::{CompletionEvent, CompletionStream, ModelInfo, ProviderError},
    service::{Account, CompletionService},
};

impl CompletionService {
    /// Completes, as often as there is a target that has not failed midway, within the time of the first try.
    ///
    /// # Errors
    /// That nobody began to answer; where somebody did, what became of the first who did.
    pub(super) async fn whole(
        &self,
        mut request: CompletionRequest,
        account: &Account,
        give_up: tokio::time::Instant,
    ) -> Result<CompletionStream, ProviderError> {
        let mut first_error = None;
        loop {
            let tried = account.of_try();
            let events = match self.start(request.clone(), &tried, give_up).await {
                Ok(events) => events,
                Err(error) => return Err(first_error.unwrap_or(error)),
            };
            let model = events.answered_by().cloned();
            // The router's own idea of the time counts from the first call on.
            request.deadline = events.deadline().or(request.deadline);
            let error = match gather(events, &tried, give_up).await {
                Ok(events) => {
                    account.absorb(&tried);
                    return Ok(CompletionStream::new(stream::iter(events.into_iter().map(Ok))));
                }
                Err(error) => ProviderError { failed: model.clone(), ..error },
            };
            let Some(model) = model.filter(|_| error.kind.may_go_elsewhere()) else {
                return Err(first_error.unwrap_or(error));
            };
            note(&model, &error);
            request.asker.failed_at.push(model.name.clone());
            first_error.get_or_insert(error);
        }
    }
}

fn note(model: &ModelInfo, error: &ProviderError) {
    let outcome = error.kind.as_label();
    tracing::debug!(name = model.name, outcome, "an answer failed midway and is begun again");
}

/// Returns all that comes; an end without [`CompletionEvent::Done`] is for the reader to say.
async fn gather(
    mut events: CompletionStream,
    tried: &Account,
    give_up: tokio::time::Instant,
) -> Result<Vec<CompletionEvent>, ProviderError> {
    let mut gathered = Vec::new();
    loop {
        let event = tokio::time::timeout_at(give_up, events.next()).await;
        match event.unwrap_or_else(|_| Some(Err(ProviderError::out_of_time()))) {
            Some(event) => {
                gathered.push(event?);
                tried.first_text();
            }
            None => return Ok(gathered),
        }
    }
}
