//! Sliding windows: which layers see only the last positions.

use serde_json::Value;

use crate::{
    config::{Fields, LAYERS_MAX},
    error::ConfigError,
};

/// Layers before this one see everything where the configuration is silent.
///
/// # Source
/// The default of `max_window_layers` in transformers' `Qwen2Config`.
const FIRST_WINDOW_LAYER_DEFAULT: usize = 28;

/// Reads the one window that all layers have; `default` stands where the field is not written, null for none.
pub(crate) fn read_window_of_all(
    fields: &Fields<'_>,
    num_layers: usize,
    default: Option<usize>,
) -> Result<Vec<Option<usize>>, ConfigError> {
    let field = "sliding_window";
    let window = if fields.is_written(field) { fields.optional_count(field)? } else { default };
    // A spec with too many layers is refused later; it must not cost memory first.
    Ok(vec![window; num_layers.min(LAYERS_MAX + 1)])
}

/// Reads the window of each layer, as Qwen2 and Qwen3 have it. `sliding_window` alone means nothing: published Qwen2.5 files carry it with
/// `use_sliding_window: false`. `max_window_layers` counts the first layers, which have *no* window, against its name;
/// transformers 5 writes `layer_types` instead.
pub(crate) fn read_windows(
    fields: &Fields<'_>,
    num_layers: usize,
) -> Result<Vec<Option<usize>>, ConfigError> {
    // A spec with too many layers is refused later; it must not cost memory first.
    let num_layers = num_layers.min(LAYERS_MAX + 1);
    if !fields.optional_flag("use_sliding_window")?.unwrap_or(false) {
        return Ok(vec![None; num_layers]);
    }
    let window = fields.count("sliding_window")?;
    if let Some(types) = fields.optional_list("layer_types")? {
        return types.iter().map(|kind| read_layer_type(fields, kind, window)).collect();
    }
    let first = fields.optional_count("max_window_layers")?.unwrap_or(FIRST_WINDOW_LAYER_DEFAULT);
    Ok((0..num_layers).map(|layer| (layer >= first).then_some(window)).collect())
}

fn read_layer_type(
    fields: &Fields<'_>,
    kind: &Value,
    window: usize,
) -> Result<Option<usize>, ConfigError> {
    match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") => Ok(Some(window)),
        _ => {
            let rule = "a list of \"full_attention\" and \"sliding_attention\"";
            Err(fields.invalid("layer_types", rule, kind))
        }
    }
}
