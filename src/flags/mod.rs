//! Feature flags: what a caller asks for, what the operator switches on and off, and for whom.
//!
//! Whose share of a percentage somebody falls into depends on the flag and on them alone, so that it stays from request
//! to request and from server to server. Users are known by a hash of their id, here as in the logs.

use std::{collections::BTreeSet, fmt::Write as _};

use ring::digest::{Digest, SHA256, digest};

use crate::config::{FlagRule, FlagScope, FlagsConfig};

/// Bytes of a user's hash that are kept: enough to tell users of one server apart.
const PSEUDONYM_BYTES: usize = 8;
/// Parts of a whole that percentages are counted in.
const PARTS: u64 = 10_000;

/// Who asks, as far as flags go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actor {
    /// The user's [`pseudonym`].
    pub user: Option<String>,
    /// Groups and namespaces that the user belongs to.
    pub groups: Vec<String>,
    /// The GitLab instance.
    pub instance: Option<String>,
    /// `saas` or `self-managed`.
    pub realm: Option<String>,
}

/// Returns what stands for an id where nobody needs to know it: a hash of it, in hexadecimal.
pub fn pseudonym(id: &str) -> String {
    let hash = hash(id);
    let mut text = String::with_capacity(2 * PSEUDONYM_BYTES);
    for byte in &hash.as_ref()[..PSEUDONYM_BYTES] {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The operator's rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlagRules {
    config: FlagsConfig,
}

impl From<FlagsConfig> for FlagRules {
    /// Users are compared by their pseudonyms, which is all that is known of who asks.
    fn from(mut config: FlagsConfig) -> Self {
        for rule in config.on.iter_mut().chain(&mut config.off) {
            if let FlagScope::User(id) = &mut rule.scope {
                *id = pseudonym(id);
            }
        }
        Self { config }
    }
}

impl FlagRules {
    /// Returns the flags in force, in order: those asked for that the caller's realm may ask for, and those switched on,
    /// less those switched off.
    pub fn in_force(&self, asked: &[String], actor: &Actor) -> Vec<String> {
        let allowed = asked.iter().filter(|flag| self.is_allowed(flag, actor)).map(String::as_str);
        let mut flags: BTreeSet<&str> = allowed.collect();
        flags.extend(concerned(&self.config.on, actor));
        for flag in concerned(&self.config.off, actor) {
            flags.remove(flag);
        }
        flags.into_iter().map(ToOwned::to_owned).collect()
    }

    /// Who tells no realm may ask for nothing that any realm may not.
    fn is_allowed(&self, flag: &str, actor: &Actor) -> bool {
        !self.config.disallowed.iter().any(|(realm, disallowed)| {
            disallowed == flag && actor.realm.as_ref().is_none_or(|own| own == realm)
        })
    }
}

fn concerned<'a>(rules: &'a [FlagRule], actor: &Actor) -> impl Iterator<Item = &'a str> {
    rules.iter().filter(|rule| concerns(rule, actor)).map(|rule| rule.flag.as_str())
}

fn concerns(rule: &FlagRule, actor: &Actor) -> bool {
    match &rule.scope {
        FlagScope::Everyone => true,
        FlagScope::User(id) => actor.user.as_ref() == Some(id),
        FlagScope::Group(id) => actor.groups.contains(id),
        FlagScope::Instance(id) => actor.instance.as_ref() == Some(id),
        FlagScope::Realm(realm) => actor.realm.as_ref() == Some(realm),
        FlagScope::Percentage(percentage) => part(&rule.flag, actor) < (percentage * 100.0) as u64,
    }
}

/// Returns which of the parts of a flag's whole somebody is: by user, else by instance.
fn part(flag: &str, actor: &Actor) -> u64 {
    let who = actor.user.as_deref().or(actor.instance.as_deref()).unwrap_or_default();
    let hash = hash(&format!("{flag}:{who}"));
    let first = hash.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
    first % PARTS
}

fn hash(text: &str) -> Digest {
    digest(&SHA256, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(flag: &str, scope: FlagScope) -> FlagRule {
        FlagRule { flag: flag.to_owned(), scope }
    }

    fn actor(user: &str) -> Actor {
        Actor {
            user: Some(pseudonym(user)),
            groups: vec!["7".to_owned(), "9".to_owned()],
            instance: Some("one".to_owned()),
            realm: Some("saas".to_owned()),
        }
    }

    #[test]
    fn rules_hold_for_whom_they_name() {
        let rows = [
            (FlagScope::Everyone, true),
            (FlagScope::User("ada".to_owned()), true),
            (FlagScope::User("bob".to_owned()), false),
            (FlagScope::Group("9".to_owned()), true),
            (FlagScope::Group("8".to_owned()), false),
            (FlagScope::Instance("one".to_owned()), true),
            (FlagScope::Instance("two".to_owned()), false),
            (FlagScope::Realm("saas".to_owned()), true),
            (FlagScope::Realm("self-managed".to_owned()), false),
            (FlagScope::Percentage(100.0), true),
            (FlagScope::Percentage(0.0), false),
        ];
        for (scope, holds) in rows {
            let on = vec![rule("new", scope.clone())];
            let rules = FlagRules::from(FlagsConfig { on, ..FlagsConfig::default() });
            let expected: &[&str] = if holds { &["new"] } else { &[] };
            assert_eq!(rules.in_force(&[], &actor("ada")), expected, "{scope:?}");
            // An opt-out names the same people, and wins.
            let off = vec![rule("new", scope.clone())];
            let on = vec![rule("new", FlagScope::Everyone)];
            let rules = FlagRules::from(FlagsConfig { on, off, ..FlagsConfig::default() });
            let expected: &[&str] = if holds { &[] } else { &["new"] };
            assert_eq!(rules.in_force(&[], &actor("ada")), expected, "not {scope:?}");
        }
    }

    #[test]
    fn what_is_asked_for_is_in_force_unless_the_realm_may_not_ask() {
        let disallowed = vec![("self-managed".to_owned(), "logs".to_owned())];
        let rules = FlagRules::from(FlagsConfig { disallowed, ..FlagsConfig::default() });
        let asked = ["new".to_owned(), "logs".to_owned(), "new".to_owned()];
        let rows = [
            (Some("saas"), &["logs", "new"][..]),
            (Some("self-managed"), &["new"]),
            (None, &["new"]),
        ];
        for (realm, expected) in rows {
            let actor = Actor { realm: realm.map(ToOwned::to_owned), ..Actor::default() };
            assert_eq!(rules.in_force(&asked, &actor), expected, "{realm:?}");
        }
    }

    #[test]
    fn a_percentage_is_about_that_share_and_the_same_each_time() {
        let on = vec![rule("new", FlagScope::Percentage(25.0))];
        let rules = FlagRules::from(FlagsConfig { on, ..FlagsConfig::default() });
        let holds = |index: usize| rules.in_force(&[], &actor(&format!("user {index}"))).len();
        let all: Vec<usize> = (0..1000).map(holds).collect();
        assert_eq!(all, (0..1000).map(holds).collect::<Vec<_>>());
        let share = all.iter().sum::<usize>();
        assert!((200..300).contains(&share), "{share}");
    }

    #[test]
    fn a_pseudonym_is_the_head_of_a_hash() {
        assert_eq!(pseudonym("abc"), "ba7816bf8f01cfea");
    }
}
