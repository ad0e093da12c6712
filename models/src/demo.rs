//! The demo model, carried in the binary so that a fresh machine completes code with nothing downloaded.
//!
//! `models/demo/README.md` says what it is made of.

/// The architecture and its sizes.
pub const CONFIG_JSON: &[u8] = include_bytes!("../demo/config.json");
/// The ids that end a text.
pub const GENERATION_CONFIG_JSON: &[u8] = include_bytes!("../demo/generation_config.json");
/// The tokenizer.
pub const TOKENIZER_JSON: &[u8] = include_bytes!("../demo/tokenizer.json");

/// Starts its bytes on a cache line, which a plain `include_bytes!` does not: the tensors within are then aligned
/// as in a mapped file.
#[repr(align(64))]
struct Aligned<T: ?Sized>(T);

static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!("../demo/model.safetensors"));

/// Returns the weights.
pub fn model_safetensors() -> &'static [u8] {
    &MODEL.0
}
