//! Reads a request's body within its limits of size and time.

use axum::{
    body::{Body, BodyDataStream},
    extract::Request,
    http::{HeaderMap, header},
};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::SemaphorePermit;

use crate::api::{
    ApiState,
    error::{ApiError, ApiErrorKind},
    json, origin,
};

/// Room for a usual body; larger ones grow as they come.
const FIRST_BYTES: usize = 64 << 10;

/// Reads the body as a JSON object; the content type is not looked at, as editors omit or misspell it.
///
/// # Errors
/// A body that is too large, too slow, cut off, of a web page that may not call, or not the object that `T` describes.
pub(super) async fn read_json<T: DeserializeOwned>(
    state: &ApiState,
    request: Request,
) -> Result<T, ApiError> {
    let (head, body) = request.into_parts();
    let reading = read(state, &head.headers, body);
    let (bytes, _room) =
        tokio::time::timeout(state.read_timeout(), reading).await.map_err(|_| {
            ApiError::new(
                ApiErrorKind::ReadTimeout,
                format!("the body took longer than {} s", state.read_timeout().as_secs_f32()),
            )
        })??;
    // Looked at last, for most clients read an answer only after they have sent everything.
    origin::check(&head.headers, state.allowed_origins())?;
    json::parse(&bytes)
}

/// Returns the body and its room among the bodies being read. Room is taken as bytes come, not as announced: else
/// those who announce much and send nothing would hold all of it.
async fn read<'a>(
    state: &'a ApiState,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Vec<u8>, SemaphorePermit<'a>), ApiError> {
    let bytes_max = state.body_bytes_max();
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(0);
    let too_large = || {
        ApiError::new(
            ApiErrorKind::BodyTooLarge,
            format!("the body must be at most {bytes_max} bytes"),
        )
    };
    // A client that asks first is told before it sends.
    if declared > bytes_max && headers.contains_key(header::EXPECT) {
        return Err(too_large());
    }
    let mut pieces = body.into_data_stream();
    let mut room = state.body_room(0)?;
    let mut bytes = Vec::with_capacity(declared.min(FIRST_BYTES));
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| {
            ApiError::new(ApiErrorKind::Invalid, "the body ended before its length")
        })?;
        if bytes.len() + piece.len() > bytes_max {
            discard(pieces, bytes_max).await;
            return Err(too_large());
        }
        match state.body_room(piece.len()) {
            Ok(more) => room.merge(more),
            Err(error) => {
                drop((bytes, room));
                discard(pieces, bytes_max).await;
                return Err(error);
            }
        }
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes, room))
}

/// Most clients read the answer only after they have sent everything: closing at once would reset their connection
/// and lose the 413. So as much again is read and dropped.
pub(super) async fn discard(mut pieces: BodyDataStream, bytes_max: usize) {
    let mut discarded = 0;
    while let Some(Ok(piece)) = pieces.next().await {
        discarded += piece.len();
        if discarded > bytes_max {
            return;
        }
    }
}
