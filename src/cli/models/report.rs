//! What `lacuna models inspect` found, for people and as JSON.

use std::fmt::Write as _;

use models::WeightFootprint;
use serde::Serialize;

use crate::cli::models::{bytes, chatting::Chatting, filling::Filling};

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
    /// What the weights take by each setting; first those that cards are told for, in their order.
    pub(super) weights: Vec<Weights>,
    pub(super) kv_bytes_per_token_f16: u64,
    pub(super) kv_bytes_per_token_f32: u64,
    pub(super) fim: Filling,
    pub(super) chat: Chatting,
    /// As the card beside the model has it.
    pub(super) licence: Option<String>,
    pub(super) cards: Vec<Card>,
}

/// The weights once they are loaded by a setting.
#[derive(Debug, Serialize)]
pub(super) struct Weights {
    pub(super) setting: &'static str,
    /// On a CPU; none where it does not compute so.
    pub(super) cpu: Option<Kept>,
    /// On a GPU, likewise.
    pub(super) gpu: Option<Kept>,
}

/// What a device keeps of the weights.
#[derive(Debug, Serialize)]
pub(super) struct Kept {
    /// Types of the matrices.
    pub(super) types: String,
    pub(super) num_bytes: u64,
}

impl From<&WeightFootprint> for Kept {
    fn from(footprint: &WeightFootprint) -> Self {
        Self { types: footprint.type_names(), num_bytes: footprint.num_bytes }
    }
}

/// What fits on a card of this size.
#[derive(Debug, Serialize)]
pub(super) struct Card {
    pub(super) gib: u64,
    /// The longest sequence beside the weights as they are stored; none where those alone do not fit, or are refused.
    pub(super) context_tokens_stored: Option<usize>,
    /// The same where integers are made of them.
    pub(super) context_tokens_int8: Option<usize>,
    /// The same where E4M3 is.
    pub(super) context_tokens_fp8: Option<usize>,
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
            ("chats", self.chat.to_string()),
            ("KV cache", format!("{f16} bytes a token in f16, {f32} in f32")),
        ];
        for (name, value) in rows {
            let _ = writeln!(text, "{name:<14}{value}");
        }
        self.write_memory(&mut text);
        text
    }

    /// Writes what the weights take, and what then fits on cards.
    fn write_memory(&self, text: &mut String) {
        let refused = || "refused".to_owned();
        let _ = writeln!(text, "\n{:<18}{:<26}on a GPU", "weights", "on a CPU");
        for Weights { setting, cpu, gpu } in &self.weights {
            let cell = |kept: &Option<Kept>| {
                let cell = |kept: &Kept| format!("{} {}", bytes(kept.num_bytes), kept.types);
                kept.as_ref().map_or_else(refused, cell)
            };
            let _ = writeln!(text, "{setting:<18}{:<26}{}", cell(cpu), cell(gpu));
        }
        let _ = writeln!(text, "\n{:<18}{:<16}{:<16}fp8", "card", "as stored", "int8");
        for card in &self.cards {
            let tokens =
                [card.context_tokens_stored, card.context_tokens_int8, card.context_tokens_fp8];
            let cells = self.weights.iter().zip(tokens).map(|(weights, tokens)| match tokens {
                _ if weights.gpu.is_none() => refused(),
                Some(tokens) => format!("{tokens} tokens"),
                None => "too large".to_owned(),
            });
            let cells = cells.map(|cell| format!("{cell:<16}")).collect::<Vec<_>>().concat();
            let name = format!("{} GiB", card.gib);
            let _ = writeln!(text, "{name:<18}{}", cells.trim_end());
        }
    }
}
