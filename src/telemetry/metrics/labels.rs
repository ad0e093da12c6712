//! Values of labels: of closed sets, or of a bounded number.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// What stands for a value that is not there, or is none of the known: the AI Gateway's word.
pub(super) const UNKNOWN: &str = "unknown";
/// What stands for values beyond the bound.
const OTHER: &str = "other";

/// Clients that GitLab and its editors' language server name.
const CLIENT_TYPES: [&str; 6] = ["ide", "node", "web", "cli", "gitlab", "duo_workflow"];
/// Realms of GitLab.
const REALMS: [&str; 2] = ["saas", "self-managed"];

/// Versions of one kind of client that are told apart: more than are in use at once anywhere.
const VALUES_MAX: usize = 64;
/// Longest version.
const VERSION_BYTES_MAX: usize = 24;

/// Returns the label of a kind of client.
pub fn client_type(text: Option<&str>) -> &'static str {
    known(text, &CLIENT_TYPES)
}

/// Returns the label of a realm.
pub(super) fn realm(text: Option<&str>) -> &'static str {
    known(text, &REALMS)
}

fn known(text: Option<&str>, words: &[&'static str]) -> &'static str {
    let text = text.unwrap_or_default().to_ascii_lowercase();
    words.iter().copied().find(|word| *word == text).unwrap_or(UNKNOWN)
}

/// Returns whether a text is a version: digits and dots, and what may follow a hyphen.
pub fn version(text: &str) -> bool {
    let (numbers, rest) = text.split_once('-').unwrap_or((text, ""));
    (1..=VERSION_BYTES_MAX).contains(&text.len())
        && numbers.split('.').count() <= 4
        && numbers
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
}

/// Values that clients choose, of which the first so many are told apart.
#[derive(Debug, Default)]
pub(super) struct Bounded(Mutex<BTreeSet<String>>);

impl Bounded {
    /// Returns the label of a version.
    pub(super) fn version(&self, text: Option<&str>) -> String {
        let Some(text) = text.filter(|text| version(text)) else { return UNKNOWN.to_owned() };
        self.of(text)
    }

    /// Returns the label of a value that is fit to be one.
    pub(super) fn of(&self, text: &str) -> String {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(text) || seen.len() < VALUES_MAX && seen.insert(text.to_owned()) {
            return text.to_owned();
        }
        OTHER.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_versions_and_boundedly_many() {
        let bounded = Bounded::default();
        let rows = [
            (Some("7.17.1"), "7.17.1"),
            (Some("17.5.0-ee"), "17.5.0-ee"),
            (Some("secret words"), UNKNOWN),
            (Some("1.2.3.4.5"), UNKNOWN),
            (Some("1..2"), UNKNOWN),
            (Some(""), UNKNOWN),
            (None, UNKNOWN),
        ];
        for (text, label) in rows {
            assert_eq!(bounded.version(text), label, "{text:?}");
        }
        let labels: BTreeSet<String> =
            (0..1000).map(|n| bounded.version(Some(&format!("1.0.{n}")))).collect();
        assert_eq!(labels.len(), VALUES_MAX - 2 + 1);
        assert!(labels.contains(OTHER));
        assert_eq!(bounded.version(Some("7.17.1")), "7.17.1");
    }

    #[test]
    fn clients_and_realms_are_of_closed_sets() {
        for (text, label) in [(Some("IDE"), "ide"), (Some("x\ny"), UNKNOWN), (None, UNKNOWN)] {
            assert_eq!(client_type(text), label);
        }
        assert_eq!(realm(Some("saas")), "saas");
        assert_eq!(realm(Some("SaaS ")), UNKNOWN);
    }
}
