//! Reads the settings of rotary positions, in both spellings of `config.json` and as GGUF has them.

use serde_json::Value;

use crate::{
    config::{Fields, Llama3, Rope, RopeKind, Yarn},
    error::ConfigError,
};

/// The base that families agree on where the configuration is silent.
///
/// # Source
/// The default of `rope_theta` in transformers' `Qwen2Config` and `LlamaConfig`.
const THETA_DEFAULT: f64 = 10_000.0;

/// Turns over the context before, between which `YaRN` has its ramp.
///
/// # Source
/// The defaults of `beta_fast` and `beta_slow` in transformers' `modeling_rope_utils.py`, from the paper.
const BETAS_DEFAULT: (f64, f64) = (32.0, 1.0);

/// Fields that some kind has. One that is not in the list asks for what we do not compute.
const KNOWN_FIELDS: [&str; 14] = [
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "low_freq_factor",
    "high_freq_factor",
];

const KINDS: &str = "one of default, linear, dynamic, yarn and llama3";

impl Rope {
    /// Reads what a GGUF file says of an architecture.
    pub(crate) fn read_gguf(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let kind = match fields.value("rope.scaling.type") {
            None => RopeKind::Default,
            Some(kind) => match kind.as_str() {
                Some("none") => RopeKind::Default,
                Some("linear") => {
                    RopeKind::Linear { factor: positive(fields, "rope.scaling.factor")? }
                }
                _ => {
                    let rule = "\"none\" or \"linear\", the only kinds that are supported";
                    return Err(fields.invalid("rope.scaling.type", rule, kind));
                }
            },
        };
        let theta = fields.optional_number("rope.freq_base")?.unwrap_or(THETA_DEFAULT);
        Ok(Self { theta, kind })
    }

    /// Reads `rope_parameters` (transformers 5), else `rope_theta` with `rope_scaling` (before).
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let theta = fields.optional_number("rope_theta")?;
        let mut rope = Self { theta: theta.unwrap_or(THETA_DEFAULT), kind: RopeKind::Default };
        // Heads that are turned in part only are told at the top level too.
        refuse_partial(fields)?;
        for object in ["rope_scaling", "rope_parameters"] {
            let Some(parameters) = fields.optional_object(object)? else { continue };
            rope.kind = read_kind(fields, &parameters)?;
            if let Some(theta) = parameters.optional_number("rope_theta")? {
                rope.theta = theta;
            }
        }
        Ok(rope)
    }
}

fn refuse_partial(fields: &Fields<'_>) -> Result<(), ConfigError> {
    match fields.value("partial_rotary_factor") {
        Some(factor) if factor.as_f64() != Some(1.0) => {
            Err(fields.invalid("partial_rotary_factor", "1", factor))
        }
        _ => Ok(()),
    }
}

/// Reads `rope_type`, `type` before transformers 4.43, and what belongs to it.
fn read_kind(config: &Fields<'_>, parameters: &Fields<'_>) -> Result<RopeKind, ConfigError> {
    let field = if parameters.value("rope_type").is_some() { "rope_type" } else { "type" };
    let Some(kind) = parameters.value(field) else {
        return Err(parameters.missing("rope_type"));
    };
    let read = match kind.as_str() {
        // The dynamic form begins to change the base where a text is longer than `max_position_embeddings`, which none is.
        Some("default" | "dynamic") => RopeKind::Default,
        Some("linear") => RopeKind::Linear { factor: positive(parameters, "factor")? },
        Some("yarn") => RopeKind::Yarn(read_yarn(config, parameters)?),
        Some("llama3") => RopeKind::Llama3(read_llama3(config, parameters)?),
        _ => return Err(parameters.invalid(field, KINDS, kind)),
    };
    refuse_partial(parameters)?;
    if let Some((name, value)) = parameters.first_other_than(&KNOWN_FIELDS) {
        return Err(parameters.invalid(name, "absent, being unsupported", value));
    }
    Ok(read)
}

fn read_yarn(config: &Fields<'_>, parameters: &Fields<'_>) -> Result<Yarn, ConfigError> {
    let original_context = original_context(config, parameters)?;
    let factor = positive(parameters, "factor")?;
    let (fast, slow) = BETAS_DEFAULT;
    let or = |field, default| match parameters.value(field) {
        None => Ok(default),
        Some(_) => positive(parameters, field),
    };
    Ok(Yarn {
        factor,
        original_context,
        beta_fast: or("beta_fast", fast)?,
        beta_slow: or("beta_slow", slow)?,
        truncate: parameters.optional_flag("truncate")?.unwrap_or(true),
        amplitude: read_amplitude(parameters, factor)?,
    })
}

/// Reads the factor on cosines and sines, which sharpens attention over a longer context.
fn read_amplitude(parameters: &Fields<'_>, factor: f64) -> Result<f64, ConfigError> {
    if parameters.value("attention_factor").is_some() {
        return positive(parameters, "attention_factor");
    }
    let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    let of = |field| parameters.optional_number(field).map(|number| number.filter(|&n| n != 0.0));
    match (of("mscale")?, of("mscale_all_dim")?) {
        (Some(mscale), Some(all)) => Ok(scale(mscale) / scale(all)),
        _ => Ok(scale(1.0)),
    }
}

fn read_llama3(config: &Fields<'_>, parameters: &Fields<'_>) -> Result<Llama3, ConfigError> {
    let llama = Llama3 {
        factor: positive(parameters, "factor")?,
        low_freq_factor: positive(parameters, "low_freq_factor")?,
        high_freq_factor: positive(parameters, "high_freq_factor")?,
        original_context: original_context(config, parameters)?,
    };
    if llama.high_freq_factor <= llama.low_freq_factor {
        let rule = format!("above `low_freq_factor` ({})", llama.low_freq_factor);
        let value = Value::from(llama.high_freq_factor);
        return Err(parameters.invalid("high_freq_factor", &rule, &value));
    }
    Ok(llama)
}

/// Reads the context of the training before. It has no default: `max_position_embeddings` may be this or the longer one.
fn original_context(config: &Fields<'_>, parameters: &Fields<'_>) -> Result<usize, ConfigError> {
    let field = "original_max_position_embeddings";
    // Older files of some families have it at the top level.
    for fields in [parameters, config] {
        match fields.optional_count(field)? {
            None => {}
            Some(0) => return Err(fields.invalid(field, "at least 1", &Value::from(0))),
            Some(context) => return Ok(context),
        }
    }
    Err(parameters.missing(field))
}

/// Reads a number that must be there, finite and above 0.
fn positive(fields: &Fields<'_>, field: &str) -> Result<f64, ConfigError> {
    let number = fields.number(field)?;
    if number > 0.0 && number.is_finite() {
        return Ok(number);
    }
    Err(fields.invalid(field, "finite and above 0", &Value::from(number)))
}
