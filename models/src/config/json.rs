//! From the bytes of `config.json` and `generation_config.json` to a checked [`DecoderSpec`].

use kernels::backend::DType;
use serde_json::{Map, Value};

use crate::{
    arch,
    config::{
        CONFIG_FILE, DecoderSpec, Fields, GENERATION_FILE,
        quantization::{Quantization, read_quantization},
    },
    error::ConfigError,
};

/// Reads a spec from the text of `config.json` and, where there is one, of `generation_config.json`.
///
/// # Errors
/// [`ConfigError`], naming the field and its value.
pub fn from_json(config: &[u8], generation: Option<&[u8]>) -> Result<DecoderSpec, ConfigError> {
    let map = parse(CONFIG_FILE, config)?;
    let fields = Fields::new(CONFIG_FILE, &map);
    let architecture = read_architecture(&fields)?;
    read_quantization(&fields)?;
    let mut spec = (architecture.translate)(&fields)?;
    spec.dtype = read_dtype(&fields)?;
    read_eos(&fields, &mut spec.eos_token_ids)?;
    if let Some(generation) = generation {
        let map = parse(GENERATION_FILE, generation)?;
        read_eos(&Fields::new(GENERATION_FILE, &map), &mut spec.eos_token_ids)?;
    }
    spec.eos_token_ids.sort_unstable();
    spec.eos_token_ids.dedup();
    spec.check()?;
    Ok(spec)
}

/// Reads from the text of `config.json` how matrices are stored; `None` where they are as they are computed with.
///
/// # Errors
/// [`ConfigError`], as [`from_json`] would refuse it.
pub(crate) fn read_quantization_config(config: &[u8]) -> Result<Option<Quantization>, ConfigError> {
    read_quantization(&Fields::new(CONFIG_FILE, &parse(CONFIG_FILE, config)?))
}

fn parse(file: &'static str, text: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    serde_json::from_slice(text)
        .map_err(|source| ConfigError::Json { file: file.to_owned(), source })
}

fn read_architecture(fields: &Fields<'_>) -> Result<&'static arch::Architecture, ConfigError> {
    let list = fields.optional_list("architectures")?;
    let Some(value) = list.and_then(|list| list.first()) else {
        return Err(fields.missing("architectures"));
    };
    let Some(name) = value.as_str() else {
        return Err(fields.invalid("architectures", "a list of names", value));
    };
    arch::find(name).ok_or_else(|| arch::unknown(name))
}

/// Reads `dtype` (transformers 5), else `torch_dtype`, else f32 as PyTorch has it.
fn read_dtype(fields: &Fields<'_>) -> Result<DType, ConfigError> {
    for field in ["dtype", "torch_dtype"] {
        let Some(value) = fields.value(field) else { continue };
        return match value.as_str() {
            Some("bfloat16") => Ok(DType::Bf16),
            Some("float16") => Ok(DType::F16),
            Some("float32") => Ok(DType::F32),
            _ => Err(fields.invalid(field, "bfloat16, float16 or float32", value)),
        };
    }
    Ok(DType::F32)
}

/// Adds the end-of-text ids, written as a number or as a list. Both files count: a base model names its end of
/// text in one and the end of a turn in the other, and a completion must stop at either.
fn read_eos(fields: &Fields<'_>, ids: &mut Vec<u32>) -> Result<(), ConfigError> {
    let field = "eos_token_id";
    let Some(value) = fields.value(field) else { return Ok(()) };
    for id in value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice) {
        match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => ids.push(id),
            None => return Err(fields.invalid(field, "a token id or a list of them", value)),
        }
    }
    Ok(())
}
