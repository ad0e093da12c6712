//! The architectures we can run, a row each: a translation of `config.json` and of weight names, and no loop.

mod qwen2;

use crate::{
    config::{CONFIG_FILE, DecoderSpec, Fields},
    error::ConfigError,
    weights::WeightPlan,
};

/// A row of the registry.
#[derive(Debug)]
pub struct Architecture {
    /// As `architectures` in `config.json` names it.
    pub name: &'static str,
    /// Reads what is the family's own; dtype, end-of-text ids and the check of ranges are common to all.
    pub(crate) translate: fn(&Fields<'_>) -> Result<DecoderSpec, ConfigError>,
    /// Names every stored tensor with its shape.
    pub(crate) plan: fn(&DecoderSpec) -> WeightPlan,
}

/// All rows.
pub const ARCHITECTURES: &[Architecture] =
    &[Architecture { name: qwen2::NAME, translate: qwen2::translate, plan: qwen2::plan }];

/// Returns the row of that name.
pub fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|row| row.name == name)
}

/// Returns the tensors that a model of this spec is made of.
///
/// # Errors
/// [`ConfigError::Invalid`] where the spec breaks a rule or names an architecture that is not in the registry.
pub fn plan(spec: &DecoderSpec) -> Result<WeightPlan, ConfigError> {
    spec.check()?;
    let row = find(spec.architecture).ok_or_else(|| unknown(spec.architecture))?;
    Ok((row.plan)(spec))
}

/// Says that an architecture is not in the registry.
pub(crate) fn unknown(name: &str) -> ConfigError {
    let known: Vec<&str> = ARCHITECTURES.iter().map(|row| row.name).collect();
    ConfigError::Invalid {
        file: CONFIG_FILE,
        field: "architectures".to_owned(),
        rule: format!("one of {}", known.join(", ")),
        value: name.to_owned(),
    }
}
