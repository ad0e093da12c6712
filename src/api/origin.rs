//! Which web pages may ask for completions.
//!
//! A browser lets any page send a plain POST anywhere and only hides the answer: without CORS a page could still keep
//! the model busy. Such a request always names the page's origin, which programs other than browsers leave out.

use axum::http::{HeaderMap, header};

use crate::api::error::{ApiError, ApiErrorKind};

/// Lets pass what names no origin, an origin of `allowed`, the server's own, or one that no web page can have.
///
/// # Errors
/// A web page of another origin.
pub(super) fn check(headers: &HeaderMap, allowed: &[String]) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let is_allowed = |allowed: &String| allowed == "*" || allowed.as_bytes() == origin.as_bytes();
    if allowed.iter().any(is_allowed) || origin.to_str().is_ok_and(|text| is_local(text, headers)) {
        return Ok(());
    }
    Err(ApiError::new(
        ApiErrorKind::ForbiddenOrigin,
        "web pages of this origin may not call; see `server.cors_allowed_origins`",
    ))
}

/// Returns whether `origin` is the server's own or an editor's, such as `vscode-file://vscode-app`. A sandboxed page's
/// is `null`, which has no scheme.
fn is_local(origin: &str, headers: &HeaderMap) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    if !["http", "https"].iter().any(|web| web.eq_ignore_ascii_case(scheme)) {
        return true;
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| host.eq_ignore_ascii_case(authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_others_are_refused() {
        let rows = [
            (None, true),
            (Some("http://127.0.0.1:5052"), true),
            (Some("https://ide.example"), true),
            (Some("vscode-webview://0a1b"), true),
            (Some("vscode-file://vscode-app"), true),
            (Some("http://127.0.0.1:80"), false),
            (Some("https://ide.example.evil"), false),
            (Some("HTTPS://evil.example"), false),
            (Some("null"), false),
            (Some(""), false),
        ];
        for (origin, is_allowed) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "127.0.0.1:5052".parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            let allowed = ["https://ide.example".to_owned()];
            assert_eq!(check(&headers, &allowed).is_ok(), is_allowed, "{origin:?}");
            assert!(check(&headers, &["*".to_owned()]).is_ok(), "{origin:?}");
        }
    }
}
