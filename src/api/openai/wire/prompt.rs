//! The many ways to write a prompt.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Unexpected, Visitor},
};

/// One prompt or several, as text or as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::api::openai) enum WirePrompt {
    /// A text or a list of texts.
    Texts(Vec<String>),
    /// A list of ids or a list of lists of ids.
    TokenLists(Vec<Vec<u32>>),
}

impl<'de> Deserialize<'de> for WirePrompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = WirePrompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a string, or a list of only strings, only token ids or only lists of token ids",
        )
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<WirePrompt, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<WirePrompt, E> {
        Ok(WirePrompt::Texts(vec![text]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<WirePrompt, A::Error> {
        let mut texts = Vec::new();
        let mut ids = Vec::new();
        let mut lists = Vec::new();
        while let Some(item) = items.next_element()? {
            match item {
                PromptItem::Text(text) => texts.push(text),
                PromptItem::TokenId(id) => ids.push(id),
                PromptItem::TokenIds(list) => lists.push(list),
            }
            let num_kinds = [texts.is_empty(), ids.is_empty(), lists.is_empty()];
            if num_kinds.into_iter().filter(|is_empty| !is_empty).count() > 1 {
                return Err(A::Error::invalid_type(Unexpected::Seq, &self));
            }
        }
        if !ids.is_empty() {
            lists.push(ids);
        }
        Ok(if lists.is_empty() { WirePrompt::Texts(texts) } else { WirePrompt::TokenLists(lists) })
    }
}

/// An item of a list of prompts.
enum PromptItem {
    Text(String),
    TokenId(u32),
    TokenIds(Vec<u32>),
}

impl<'de> Deserialize<'de> for PromptItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptItemVisitor)
    }
}

struct PromptItemVisitor;

impl<'de> Visitor<'de> for PromptItemVisitor {
    type Value = PromptItem;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id or a list of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PromptItem, E> {
        Ok(PromptItem::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<PromptItem, E> {
        Ok(PromptItem::Text(text))
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<PromptItem, E> {
        let id =
            u32::try_from(id).map_err(|_| E::invalid_value(Unexpected::Unsigned(id), &self))?;
        Ok(PromptItem::TokenId(id))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<PromptItem, A::Error> {
        let mut ids = Vec::new();
        while let Some(TokenId(id)) = items.next_element()? {
            ids.push(id);
        }
        Ok(PromptItem::TokenIds(ids))
    }
}

/// A token id; unlike serde's own integers it says so when it refuses.
struct TokenId(u32);

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u32(TokenIdVisitor)
    }
}

struct TokenIdVisitor;

impl Visitor<'_> for TokenIdVisitor {
    type Value = TokenId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token id")
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<TokenId, E> {
        u32::try_from(id)
            .map(TokenId)
            .map_err(|_| E::invalid_value(Unexpected::Unsigned(id), &self))
    }
}
