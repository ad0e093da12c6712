//! Rotary positions: the frequencies of a head, and the two spellings of their settings.

use crate::{config::Fields, error::ConfigError};

/// The base that families agree on where the configuration is silent.
///
/// # Source
/// The default of `rope_theta` in transformers' `Qwen2Config` and `LlamaConfig`.
const THETA_DEFAULT: f64 = 10_000.0;

/// How positions become angles.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric row of frequencies.
    pub theta: f64,
    /// What is done to that row for longer contexts.
    pub kind: RopeKind,
}

/// What is done to the frequencies for longer contexts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RopeKind {
    /// Nothing: as trained.
    Default,
}

impl Rope {
    /// Returns the frequency of each pair of a head, `theta^(-2i / head_dim)`, rounded once to f32.
    ///
    /// # Shapes
    /// `[head_dim / 2]`
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f32> {
        let exponent = |index| -2.0 * f64::from(index) / head_dim as f64;
        match self.kind {
            RopeKind::Default => {
                (0..head_dim as u32 / 2).map(|i| self.theta.powf(exponent(i)) as f32).collect()
            }
        }
    }

    /// Returns the factor on cosines and sines.
    pub fn amplitude(&self) -> f32 {
        match self.kind {
            RopeKind::Default => 1.0,
        }
    }

    /// Reads what a GGUF file says of an architecture.
    pub(crate) fn read_gguf(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        match fields.value("rope.scaling.type") {
            Some(kind) if kind != "none" => {
                let rule = "\"none\", the only kind that is supported";
                return Err(fields.invalid("rope.scaling.type", rule, kind));
            }
            _ => {}
        }
        let theta = fields.optional_number("rope.freq_base")?.unwrap_or(THETA_DEFAULT);
        Ok(Self { theta, kind: RopeKind::Default })
    }

    /// Reads `rope_parameters` (transformers 5), else `rope_theta` with `rope_scaling` (before).
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let theta = fields.optional_number("rope_theta")?;
        let mut rope = Self { theta: theta.unwrap_or(THETA_DEFAULT), kind: RopeKind::Default };
        for object in ["rope_scaling", "rope_parameters"] {
            let Some(parameters) = fields.optional_object(object)? else { continue };
            rope.kind = read_kind(&parameters)?;
            if let Some(theta) = parameters.optional_number("rope_theta")? {
                rope.theta = theta;
            }
        }
        Ok(rope)
    }
}

/// Reads `rope_type`, `type` before transformers 4.43.
fn read_kind(parameters: &Fields<'_>) -> Result<RopeKind, ConfigError> {
    let field = if parameters.value("rope_type").is_some() { "rope_type" } else { "type" };
    let Some(kind) = parameters.value(field) else {
        return Err(parameters.missing("rope_type"));
    };
    if kind != "default" {
        let rule = "\"default\", the only kind that is supported";
        return Err(parameters.invalid(field, rule, kind));
    }
    match parameters.value("partial_rotary_factor") {
        Some(factor) if factor.as_f64() != Some(1.0) => {
            Err(parameters.invalid("partial_rotary_factor", "1", factor))
        }
        _ => Ok(RopeKind::Default),
    }
}
