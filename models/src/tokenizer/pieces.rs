//! SentencePiece's vocabulary, wherever it was stored: pieces with scores, which say what merges or wins.

use std::{borrow::Cow, collections::HashMap};

use serde_json::{Map, Value, json};

use crate::tokenizer::{added_token, bos_processor};

/// What a piece is for.
///
/// # Source
/// `SentencePiece.Type` in sentencepiece's `sentencepiece_model.proto`; GGUF has the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceKind {
    /// Part of texts.
    Normal,
    /// What has no piece.
    Unknown,
    /// A sentinel.
    Control,
    /// A text that is one token wherever it stands.
    UserDefined,
    /// Fills the vocabulary up.
    Unused,
    /// A byte of what has no piece.
    Byte,
}

impl PieceKind {
    /// Returns the kind of that number.
    pub(crate) fn of(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    fn is_added(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }
}

/// A row of the vocabulary; its place is its id.
#[derive(Clone, Debug)]
pub(crate) struct Piece<'a> {
    /// Its text, spaces written `▁`.
    pub(crate) text: Cow<'a, str>,
    /// The higher, the earlier it is merged or the likelier it is.
    pub(crate) score: f32,
    /// What it is for.
    pub(crate) kind: PieceKind,
}

/// How texts become pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Neighbours that join to the best piece are merged, again and again.
    Merges,
    /// The pieces whose scores have the highest sum.
    Unigram,
}

/// A vocabulary.
#[derive(Clone, Debug)]
pub(crate) struct Pieces<'a> {
    /// By id, no text twice.
    pub(crate) rows: Vec<Piece<'a>>,
    /// Sentinels beside them.
    pub(crate) added: Vec<(u32, String)>,
    /// How texts become pieces.
    pub(crate) shape: Shape,
    /// Whether a space is put before a text.
    pub(crate) has_dummy_prefix: bool,
    /// What comes before all.
    pub(crate) bos_id: Option<u32>,
}

impl Pieces<'_> {
    /// Returns the text of a `tokenizer.json`.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let space = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
        let prefix = json!({ "type": "Prepend", "prepend": "▁" });
        let steps = if self.has_dummy_prefix { vec![prefix, space] } else { vec![space] };
        let strip = json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 });
        let mut back = vec![
            json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        back.extend(self.has_dummy_prefix.then_some(strip));
        let definition = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": { "type": "Sequence", "normalizers": steps },
            "pre_tokenizer": null,
            "post_processor": bos_processor(self.bos()),
            "decoder": { "type": "Sequence", "decoders": back },
            "model": match self.shape {
                Shape::Merges => self.merges_model(),
                Shape::Unigram => self.unigram_model(),
            }
        });
        definition.to_string().into_bytes()
    }

    fn bos(&self) -> Option<(u32, &str)> {
        let id = self.bos_id?;
        Some((id, self.rows.get(id as usize)?.text.as_ref()))
    }

    fn added_tokens(&self) -> Vec<Value> {
        let rows = self.rows.iter().enumerate().filter(|(_, row)| row.kind.is_added());
        let of_rows =
            rows.map(|(id, row)| added_token(id, &row.text, row.kind == PieceKind::UserDefined));
        let beside = self.added.iter().map(|(id, text)| added_token(*id as usize, text, false));
        of_rows.chain(beside).collect()
    }

    fn unigram_model(&self) -> Value {
        let is_unknown = |row: &Piece<'_>| row.kind == PieceKind::Unknown;
        let vocab: Vec<Value> = self
            .rows
            .iter()
            .enumerate()
            .map(|(id, row)| match row.kind {
                // A space is never looked up, so that no text has this name.
                PieceKind::Unused => json!([format!("unused {id}"), row.score]),
                _ => json!([row.text, row.score]),
            })
            .collect();
        json!({
            "type": "Unigram", "unk_id": self.rows.iter().position(is_unknown),
            "byte_fallback": true, "vocab": vocab
        })
    }

    fn merges_model(&self) -> Value {
        let used = || self.rows.iter().enumerate().filter(|(_, row)| row.kind != PieceKind::Unused);
        let vocab: Map<String, Value> =
            used().map(|(id, row)| (row.text.clone().into_owned(), json!(id))).collect();
        json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true,
            "ignore_merges": false, "vocab": vocab, "merges": self.merges()
        })
    }

    /// Returns the pairs that join to a piece, the best piece first.
    ///
    /// SentencePiece has no pairs: it joins any two neighbours whose text is a piece. So each way to cut a piece in two
    /// is a pair.
    fn merges(&self) -> Vec<Value> {
        let normal = || {
            let rows = self.rows.iter().enumerate();
            rows.filter(|(_, row)| row.kind == PieceKind::Normal)
        };
        let ids: HashMap<&str, usize> = normal().map(|(id, row)| (row.text.as_ref(), id)).collect();
        let mut ranked: Vec<(usize, &Piece<'_>)> = normal().collect();
        ranked.sort_by(|(_, a), (_, b)| b.score.total_cmp(&a.score));
        let mut merges = Vec::new();
        for (_, row) in ranked {
            let borders = row.text.char_indices().map(|(index, _)| index).skip(1);
            let mut pairs: Vec<(usize, usize)> = borders
                .filter_map(|border| {
                    let (left, right) = row.text.split_at(border);
                    Some((*ids.get(left)?, *ids.get(right)?))
                })
                .collect();
            pairs.sort_unstable();
            let text = |id: usize| self.rows[id].text.as_ref();
            merges.extend(pairs.into_iter().map(|(left, right)| json!([text(left), text(right)])));
        }
        merges
    }
}
