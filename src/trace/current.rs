//! Which request a task works on, for whoever has nobody to ask: the one that a panic tells of.
//!
//! Whoever can be handed a value is handed one; a panic's hook cannot.

use std::{future::Future, sync::Arc};

tokio::task_local! {
    static REQUEST_ID: Arc<str>;
}

/// Runs a future as part of a request.
pub async fn in_request<T>(request_id: Arc<str>, future: impl Future<Output = T>) -> T {
    REQUEST_ID.scope(request_id, future).await
}

/// Does something as part of a request.
pub fn with_request<T>(request_id: &Arc<str>, work: impl FnOnce() -> T) -> T {
    REQUEST_ID.sync_scope(Arc::clone(request_id), work)
}

/// Returns the name of the request that the task works on, where it is known.
pub fn current_request() -> Option<Arc<str>> {
    REQUEST_ID.try_with(Arc::clone).ok()
}
