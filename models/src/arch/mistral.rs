//! Mistral's dense models: Codestral and Devstral. Llama with a window on every layer, where there is one.

use serde_json::Value;

use crate::{
    arch::common::{self, Defaults},
    config::{DecoderSpec, Fields, read_window_of_all},
    error::ConfigError,
};

/// The name in `architectures`.
pub(super) const NAME: &str = "MistralForCausalLM";

/// # Source
/// transformers' `MistralConfig`.
const DEFAULTS: Defaults = Defaults { norm_eps: 1e-6, has_tied_head: false, head_dim: None };

/// The window where the configuration does not mention it, which those without one do, by null.
///
/// # Source
/// The default of `sliding_window` in transformers' `MistralConfig`.
const WINDOW_DEFAULT: usize = 4096;

pub(super) fn translate(fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    // Windows on some layers only are another architecture's.
    if let Some(types) = fields.optional_list("layer_types")? {
        return Err(fields.invalid("layer_types", "absent", &Value::from(types)));
    }
    let common = common::read(NAME, fields, DEFAULTS)?;
    let windows = read_window_of_all(fields, common.num_layers, Some(WINDOW_DEFAULT))?;
    Ok(DecoderSpec { windows, ..common })
}
