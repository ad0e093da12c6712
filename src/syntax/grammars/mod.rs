//! What the kinds of nodes of a grammar are taken for, looked up once in the life of the process.

mod table;

use std::sync::OnceLock;

use tree_sitter::Language;

use crate::{completion::Grammar, syntax::grammars::table::Row};

/// A row of the table with its names looked up.
#[derive(Debug)]
pub(super) struct Kinds {
    pub(super) language: Language,
    pub(super) row: &'static Row,
    /// By a node's number of kind.
    roles: Vec<Roles>,
}

/// What a kind of node is taken for; a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Roles(u8);

impl Roles {
    pub(super) const COMMENT: Self = Self(1);
    pub(super) const BLOCK: Self = Self(1 << 1);
    pub(super) const IMPORT: Self = Self(1 << 2);
    pub(super) const FUNCTION: Self = Self(1 << 3);
    pub(super) const TYPE: Self = Self(1 << 4);
    pub(super) const BODY: Self = Self(1 << 5);

    /// Returns whether the sets have a role in common.
    pub(super) fn have(self, roles: Self) -> bool {
        self.0 & roles.0 != 0
    }

    /// Returns the roles of both.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Kinds {
    fn new(row: &'static Row) -> Self {
        let language = (row.language)();
        let mut roles = vec![Roles::default(); language.node_kind_count()];
        for (id, roles) in roles.iter_mut().enumerate() {
            // A keyword may have the name of the node that it begins; it is no node of its own.
            if !language.node_kind_is_named(id as u16) {
                continue;
            }
            let Some(name) = language.node_kind_for_id(id as u16) else { continue };
            for (role, names) in row.names() {
                if names.contains(&name) {
                    *roles = roles.and(role);
                }
            }
        }
        Self { language, row, roles }
    }

    /// Returns what nodes of this kind are taken for.
    pub(super) fn roles(&self, kind_id: u16) -> Roles {
        // The kind of an error lies beyond all kinds.
        self.roles.get(usize::from(kind_id)).copied().unwrap_or_default()
    }
}

/// Returns what is known of a grammar.
pub(super) fn kinds(grammar: Grammar) -> &'static Kinds {
    static KINDS: [OnceLock<Kinds>; Grammar::ALL.len()] =
        [const { OnceLock::new() }; Grammar::ALL.len()];
    KINDS[grammar as usize].get_or_init(|| Kinds::new(table::row(grammar)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_table_is_a_kind_of_its_grammar() {
        for grammar in Grammar::ALL {
            let kinds = kinds(grammar);
            for (role, names) in kinds.row.names() {
                for name in names {
                    let id = kinds.language.id_for_node_kind(name, true);
                    assert!(kinds.roles(id).have(role), "{grammar:?}: no kind {name}");
                }
            }
            assert!(!kinds.row.comments.is_empty() && !kinds.row.blocks.is_empty(), "{grammar:?}");
        }
    }
}
