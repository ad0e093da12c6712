//! Who calls, as the headers tell: for logs, for flags, and for what a client's version can.
//!
//! Nothing here is proven; what depends on a proof compares it with a token's claims.

use axum::http::HeaderMap;
use semver::Version;

use crate::auth::Realm;
use crate::flags::{Actor, pseudonym};
use crate::telemetry::Caller;

/// The first language server whose `code_context` components can be relied on.
const CODE_CONTEXT_SINCE: Version = Version::new(7, 17, 1);
/// Longest header that is kept; ids, names and versions are shorter.
const WORD_BYTES_MAX: usize = 128;
/// Most flags and groups of a request.
const LIST_ITEMS_MAX: usize = 256;
/// Headers that name groups.
const GROUP_HEADERS: [&str; 4] = [
    "x-gitlab-saas-duo-pro-namespace-ids",
    "x-gitlab-feature-enabled-by-namespace-ids",
    "x-gitlab-namespace-id",
    "x-gitlab-root-namespace-id",
];

/// A request's caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GitlabContext {
    /// For the log.
    pub(super) caller: Caller,
    /// For flags.
    pub(super) actor: Actor,
    /// The flags that GitLab has switched on for the user.
    pub(super) flags: Vec<String>,
    /// Whether the instance logs what its users ask of models.
    pub(super) is_verbose: bool,
    language_server: Option<Version>,
}

impl GitlabContext {
    /// Reads the headers; what makes no sense is as good as absent.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let word = |name: &str| word(headers.get(name)?.to_str().ok()?);
        let realm = word("x-gitlab-realm");
        let instance = word("x-gitlab-instance-id");
        let user = word("x-gitlab-global-user-id").map(|id| pseudonym(&id));
        let language_server = word("x-gitlab-language-server-version");
        Self {
            language_server: language_server.as_deref().and_then(|v| Version::parse(v).ok()),
            is_verbose: word("x-gitlab-enabled-instance-verbose-ai-logs").as_deref()
                == Some("true"),
            flags: list(headers, "x-gitlab-enabled-feature-flags"),
            actor: Actor {
                user,
                groups: GROUP_HEADERS.iter().flat_map(|name| list(headers, name)).collect(),
                instance,
                // A realm that nobody knows must not pass for one of which nothing is forbidden.
                realm: realm.clone().filter(|realm| Realm::parse(realm).is_some()),
            },
            caller: Caller {
                realm,
                client_type: word("x-gitlab-client-type"),
                language_server,
                gitlab_version: word("x-gitlab-version"),
            },
        }
    }

    /// Returns whether `code_context` components are heeded.
    pub(super) fn has_code_context(&self) -> bool {
        self.language_server.as_ref().is_some_and(|version| *version >= CODE_CONTEXT_SINCE)
    }
}

/// Returns a header's word, if it is one: logs take no other.
fn word(text: &str) -> Option<String> {
    let text = text.trim();
    let is_word = (1..=WORD_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    is_word.then(|| text.to_owned())
}

fn list(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|text| text.split(',')).filter_map(word).take(LIST_ITEMS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn context(headers: &[(&'static str, &'static str)]) -> GitlabContext {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        GitlabContext::of(&headers.collect())
    }

    #[test]
    fn headers_tell_who_calls_and_the_user_is_a_hash() {
        let context = context(&[
            ("x-gitlab-realm", "saas"),
            ("x-gitlab-instance-id", " one "),
            ("x-gitlab-global-user-id", "abc"),
            ("x-gitlab-enabled-feature-flags", "b, a,,"),
            ("x-gitlab-saas-duo-pro-namespace-ids", "7,9"),
            ("x-gitlab-root-namespace-id", "1"),
        ]);
        assert_eq!(context.flags, ["b", "a"]);
        assert_eq!(context.actor.groups, ["7", "9", "1"]);
        assert_eq!(context.actor.instance.as_deref(), Some("one"));
        assert_eq!(context.actor.user.as_deref(), Some("ba7816bf8f01cfea"));
        assert_eq!(GitlabContext::of(&HeaderMap::new()), GitlabContext::default());
    }

    #[test]
    fn context_components_need_a_language_server_that_knows_them() {
        let rows = [
            (None, false),
            (Some("7.17.1"), true),
            (Some("7.18.0"), true),
            (Some("10.0.0"), true),
            (Some("7.17.0"), false),
            (Some("7.17.1-beta"), false),
            (Some("new"), false),
            (Some(""), false),
        ];
        for (version, expected) in rows {
            let headers = version.map(|version| ("x-gitlab-language-server-version", version));
            let headers: Vec<_> = headers.into_iter().collect();
            assert_eq!(context(&headers).has_code_context(), expected, "{version:?}");
        }
    }
}
