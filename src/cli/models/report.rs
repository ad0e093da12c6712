//! What `lacuna models inspect` found, for people and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::models::{bytes, filling::Filling};

/// A model as it would be loaded.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    /// As it was named.
    pub(super) model: String,
    /// The commit, of a model that was looked up on the hub.
    pub(super) commit: Option<String>,
    pub(super) architecture: &'static str,
    pub(super) num_layers: usize,
    pub(super) hidden_size: usize,
    pub(super) ffn_size: usize,
    pub(super) num_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) vocab_size: usize,
    pub(super) has_tied_head: bool,
    pub(super) context_tokens: usize,
    /// Positions that a token of a layer with a window sees.
    pub(super) window: Option<usize>,
    pub(super) num_parameters: u64,
    /// What the weights take in each format.
    pub(super) weights: Vec<Weights>,
    pub(super) kv_bytes_per_token_f16: u64,
    pub(super) kv_bytes_per_token_f32: u64,
    pub(super) fim: Filling,
    /// As the card beside the model has it.
    pub(super) licence: Option<String>,
    /// Whether a GPU computes with the weights as they are stored, and as integers, at all.
    pub(super) gpu_refuses_stored: bool,
    pub(super) gpu_refuses_int8: bool,
    pub(super) cards: Vec<Card>,
}

/// The weights once they are loaded.
#[derive(Debug, Serialize)]
pub(super) struct Weights {
    /// The setting that makes it so.
    pub(super) setting: &'static str,
    /// Types of the matrices.
    pub(super) types: String,
    /// On a CPU.
    pub(super) num_bytes: u64,
}

/// What fits on a card of this size.
#[derive(Debug, Serialize)]
pub(super) struct Card {
    pub(super) gib: u64,
    /// The longest sequence beside the weights as they are stored; none where those alone do not fit.
    pub(super) context_tokens_stored: Option<usize>,
    /// The same where integers are made of them.
    pub(super) context_tokens_int8: Option<usize>,
}

impl Facts {
    /// Returns the facts as lines.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        let commit = self.commit.as_ref().map(|commit| format!(", commit {commit}"));
        let head =
            if self.has_tied_head { "the embedding is the head" } else { "a head of its own" };
        let window = self.window.map(|window| format!(", windows of {window}"));
        let (queries, kv, dim) = (self.num_heads, self.num_kv_heads, self.head_dim);
        let millions = self.num_parameters as f64 / 1e6;
        let (f16, f32) = (self.kv_bytes_per_token_f16, self.kv_bytes_per_token_f32);
        let rows = [
            ("model", format!("{}{}", self.model, commit.unwrap_or_default())),
            ("architecture", self.architecture.to_owned()),
            ("licence", self.licence.clone().unwrap_or_else(|| "not said here".to_owned())),
            ("parameters", format!("{millions:.1} million")),
            ("layers", self.num_layers.to_string()),
            ("widths", format!("{} between layers, {} inside", self.hidden_size, self.ffn_size)),
            ("heads", format!("{queries} of queries, {kv} of keys and values, {dim} wide")),
            ("vocabulary", format!("{} tokens, {head}", self.vocab_size)),
            ("context", format!("{} tokens{}", self.context_tokens, window.unwrap_or_default())),
            ("filling gaps", self.fim.to_string()),
            ("KV cache", format!("{f16} bytes a token in f16, {f32} in f32")),
        ];
        for (name, value) in rows {
            let _ = writeln!(text, "{name:<14}{value}");
        }
        for (index, weights) in self.weights.iter().enumerate() {
            let name = if index == 0 { "weights" } else { "" };
            let Weights { setting, types, num_bytes } = weights;
            let _ = writeln!(text, "{name:<14}{:>10}  {types}, with {setting}", bytes(*num_bytes));
        }
        let _ = writeln!(text, "\n{:<14}{:>16}{:>16}", "card", "as stored", "int8");
        for card in &self.cards {
            let cell = |is_refused: bool, tokens: Option<usize>| match tokens {
                _ if is_refused => "refused".to_owned(),
                Some(tokens) => format!("{tokens} tokens"),
                None => "too large".to_owned(),
            };
            let name = format!("{} GiB", card.gib);
            let stored = cell(self.gpu_refuses_stored, card.context_tokens_stored);
            let int8 = cell(self.gpu_refuses_int8, card.context_tokens_int8);
            let _ = writeln!(text, "{name:<14}{stored:>16}{int8:>16}");
        }
        text
    }
}
