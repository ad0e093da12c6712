//! The boundary of the crate: files in, logits out.

#![expect(clippy::unwrap_used, reason = "a test helper fails by panicking")]

/// Adapters against PEFT: alone, together, on several ranks; and those that do not fit.
mod adapters;
/// Each architecture against transformers.
mod architectures;
/// Chat templates, wherever a model has them.
mod chat;
/// `config.json` in all spellings, good and bad.
mod config;
/// `config.json` of each family.
mod config_families;
/// Batched, chunked and scattered runs give the same bits as plain ones.
mod equivalence;
/// GGUF files of each architecture.
mod gguf_families;
/// Headers of GGUF files.
mod gguf_header;
/// Models in GGUF files.
mod gguf_model;
mod gguf_tokenizer;
/// Writes GGUF files.
mod gguf_writer;
/// Logits and greedy output of Hugging Face transformers.
mod golden;
/// Limits of loading: memory, context, rows of logits.
mod limits;
/// A model cut over several ranks.
mod parallel;
/// What integers cost.
mod quality;
/// AWQ, GPTQ and FP8.
mod quantized;
/// A block table and a loop, as simple as an engine can be.
mod support;
/// Safetensors that are right, wrong, cut short or in pieces.
mod weights;
