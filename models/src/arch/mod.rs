//! The architectures we can run, a row each: a translation of `config.json` and of weight names, and no loop.

mod common;
mod gemma;
mod gguf;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod starcoder2;

pub(crate) use gguf::{EMBEDDING, FIELDS, GgufForm, HEAD, router_of};

use crate::{
    config::{CONFIG_FILE, DecoderSpec, Fields},
    error::ConfigError,
    shown::escape,
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
    /// How GGUF files write it; `None` where none are published.
    pub(crate) gguf: Option<&'static GgufForm>,
}

/// All rows.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: qwen2::NAME,
        translate: qwen2::translate,
        plan: common::plan,
        gguf: Some(&qwen2::GGUF),
    },
    Architecture {
        name: qwen3::NAME,
        translate: qwen3::translate,
        plan: common::plan,
        gguf: Some(&qwen3::GGUF),
    },
    Architecture {
        name: qwen3_moe::NAME,
        translate: qwen3_moe::translate,
        plan: common::plan,
        gguf: Some(&qwen3_moe::GGUF),
    },
    Architecture {
        name: llama::NAME,
        translate: llama::translate,
        plan: common::plan,
        gguf: Some(&llama::GGUF),
    },
    // Its GGUF files say that they are Llama's, which is what they then are.
    Architecture {
        name: mistral::NAME,
        translate: mistral::translate,
        plan: common::plan,
        gguf: None,
    },
    Architecture {
        name: starcoder2::NAME,
        translate: starcoder2::translate,
        plan: starcoder2::plan,
        gguf: Some(&starcoder2::GGUF),
    },
    Architecture {
        name: gemma::NAME,
        translate: gemma::translate,
        plan: gemma::plan,
        gguf: Some(&gemma::GGUF),
    },
];

/// Returns the row of that name.
pub fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|row| row.name == name)
}

/// Returns the row whose GGUF files have that `general.architecture`.
pub(crate) fn find_gguf(name: &str) -> Option<(&'static Architecture, &'static GgufForm)> {
    ARCHITECTURES.iter().find_map(|row| {
        let form = row.gguf.filter(|form| form.name == name)?;
        Some((row, form))
    })
}

/// Returns the `general.architecture` of all rows that have one.
pub(crate) fn gguf_names() -> String {
    let names = ARCHITECTURES.iter().filter_map(|row| row.gguf.map(|form| form.name));
    names.collect::<Vec<_>>().join(", ")
}

/// Returns the tensors that a model of this spec is made of, by their names in safetensors.
///
/// # Errors
/// [`ConfigError::Invalid`] where the spec breaks a rule or names an architecture that is not in the registry.
pub fn plan(spec: &DecoderSpec) -> Result<WeightPlan, ConfigError> {
    spec.check()?;
    let row = find(spec.architecture).ok_or_else(|| unknown(spec.architecture))?;
    Ok((row.plan)(spec))
}

/// Returns the tensors that a model of this spec is made of, by their names in GGUF.
///
/// # Errors
/// As [`plan`]; an architecture without GGUF files is one that is not in the registry.
pub fn gguf_plan(spec: &DecoderSpec) -> Result<WeightPlan, ConfigError> {
    let mut plan = plan(spec)?;
    let form = find(spec.architecture).and_then(|row| row.gguf);
    form.ok_or_else(|| unknown(spec.architecture))?.rename(spec, &mut plan);
    Ok(plan)
}

/// Says that an architecture is not in the registry.
pub(crate) fn unknown(name: &str) -> ConfigError {
    let known: Vec<&str> = ARCHITECTURES.iter().map(|row| row.name).collect();
    ConfigError::Invalid {
        file: CONFIG_FILE.to_owned(),
        field: "architectures".to_owned(),
        rule: format!("one of {}", known.join(", ")),
        value: escape(name),
    }
}
