//! Values of labels: of closed sets, or of a bounded number.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// What stands for a value that is not there, or is none of the known: the AI Gateway's word.
pub(super) const UNKNOWN: &str = "unknown";
/// What stands for values beyond the bound.
pub(super) const OTHER: &str = "other";

/// Clients that GitLab and its editors' language server name.
const CLIENT_TYPES: [&str; 6] = ["ide", "node", "web", "cli", "gitlab", "duo_workflow"];
/// Realms of GitLab.
const REALMS: [&str; 2] = ["saas", "self-managed"];

/// Pairs of versions that are told apart: more than are in use at once in most places.
const VALUES_MAX: usize = 64;
/// Longest version.
const VERSION_BYTES_MAX: usize = 24;

/// Returns the label of a kind of client.
pub fn client_type(text: Option<&str>) -> &'static str {
    known(text, &CLIENT_TYPES)
}

/// Returns the label of a realm.
pub fn realm(text: Option<&str>) -> &'static str {
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

/// Pairs of values that clients choose, of which the first so many are told apart.
#[derive(Debug, Default)]
pub(super) struct Bounded(Mutex<BTreeSet<[String; 2]>>);

impl Bounded {
    /// Returns the labels of two versions. Pairs are counted, for each is series of its own.
    pub(super) fn pair(&self, texts: [Option<&str>; 2]) -> [String; 2] {
        let pair =
            texts.map(|text| text.filter(|text| version(text)).unwrap_or(UNKNOWN).to_owned());
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(&pair) || seen.len() < VALUES_MAX && seen.insert(pair.clone()) {
            return pair;
        }
        [OTHER, OTHER].map(str::to_owned)
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
            assert_eq!(bounded.pair([text, None]), [label, UNKNOWN], "{text:?}");
        }
        let text = |n: u32| format!("1.0.{n}");
        let pair = |n: u32| bounded.pair([Some(&text(n / 32)), Some(&text(n % 32))]);
        let labels: BTreeSet<[String; 2]> = (0..1000).map(pair).collect();
        assert_eq!(labels.len(), VALUES_MAX - 3 + 1);
        assert!(labels.contains(&[OTHER, OTHER].map(str::to_owned)));
        assert_eq!(bounded.pair([Some("7.17.1"), None])[0], "7.17.1");
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
