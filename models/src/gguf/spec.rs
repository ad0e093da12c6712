//! From metadata and the table of tensors to a checked [`DecoderSpec`].

use serde_json::{Map, Value};

use crate::{
    arch,
    config::{Biases, DecoderSpec, Fields, LAYERS_MAX},
    error::ConfigError,
    gguf::{Gguf, GgufValue},
};

const ARCHITECTURE_KEY: &str = "general.architecture";
const TOKENIZER_PREFIX: &str = "tokenizer.ggml";
/// Ids that end a text: of the whole, and of a turn. A completion must stop at either.
const EOS_FIELDS: [&str; 2] = ["eos_token_id", "eot_token_id"];

/// Reads a spec.
///
/// # Errors
/// [`ConfigError`], naming the key and its value.
pub(crate) fn read_spec(gguf: &Gguf<'_>) -> Result<DecoderSpec, ConfigError> {
    let file = gguf.file();
    let general = fields_below(gguf, "general");
    let Some(value) = general.get("architecture") else {
        return Err(ConfigError::Missing {
            file: file.to_owned(),
            field: ARCHITECTURE_KEY.to_owned(),
        });
    };
    let row = value.as_str().and_then(arch::find_gguf);
    let Some((architecture, form)) = row else {
        let rule = format!("one of {}", arch::gguf_names());
        return Err(Fields::below(file, "general", &general).invalid("architecture", &rule, value));
    };
    let own = fields_below(gguf, form.name);
    let mut spec = (form.translate)(&Fields::below(file, form.name, &own))?;
    spec.architecture = architecture.name;
    let embedding = gguf.tensor(arch::EMBEDDING).ok_or_else(|| ConfigError::Missing {
        file: file.to_owned(),
        field: arch::EMBEDDING.to_owned(),
    })?;
    spec.vocab_size = embedding.shape[0];
    spec.dtype = embedding.dtype;
    spec.has_tied_head = gguf.tensor(arch::HEAD).is_none();
    // One of a kind tells of all: a file that lacks another is refused for it.
    let has = |name| gguf.tensor(name).is_some();
    spec.biases = form.biases.unwrap_or_else(|| Biases {
        qkv: has("blk.0.attn_q.bias"),
        attention_output: has("blk.0.attn_output.bias"),
        ffn: has("blk.0.ffn_up.bias"),
    });
    if let Some(mixture) = &mut spec.mixture {
        for (layer, is_mixture) in mixture.layers.iter_mut().enumerate() {
            *is_mixture = gguf.tensor(&arch::router_of(layer)).is_some();
        }
    }
    let tokenizer = fields_below(gguf, TOKENIZER_PREFIX);
    let tokenizer = Fields::below(file, TOKENIZER_PREFIX, &tokenizer);
    for field in EOS_FIELDS {
        let Some(id) = tokenizer.optional_count(field)? else { continue };
        let id = u32::try_from(id).map_err(|_| {
            tokenizer.invalid(field, "a token id of 32 bits", &Value::from(id as u64))
        })?;
        spec.eos_token_ids.push(id);
    }
    spec.eos_token_ids.sort_unstable();
    spec.eos_token_ids.dedup();
    spec.check().map_err(|error| rename(error, file, form))?;
    Ok(spec)
}

/// Returns the values under `prefix`, without it. Lists that no architecture has, such as the tokens, stay out.
fn fields_below(gguf: &Gguf<'_>, prefix: &str) -> Map<String, Value> {
    let own = gguf.metadata().iter().filter_map(|(key, value)| {
        let field = key.strip_prefix(prefix)?.strip_prefix('.')?;
        Some((field.to_owned(), to_json(value)?))
    });
    own.collect()
}

fn to_json(value: &GgufValue<'_>) -> Option<Value> {
    Some(match value {
        GgufValue::Unsigned(number) => Value::from(*number),
        GgufValue::Signed(number) => Value::from(*number),
        // What JSON cannot write becomes a text, which is refused where a number is wanted.
        GgufValue::Float(number) if !number.is_finite() => Value::from(number.to_string()),
        GgufValue::Float(number) => Value::from(*number),
        GgufValue::Flag(flag) => Value::from(*flag),
        GgufValue::Text(text) => Value::from(String::from_utf8_lossy(text).into_owned()),
        GgufValue::Array(array) if array.len() > LAYERS_MAX => return None,
        GgufValue::Array(array) => {
            array.values().map(|value| value.and_then(|value| to_json(&value))).collect()
        }
    })
}

/// A rule between fields names them as `config.json` does; the person has a file that names them otherwise.
fn rename(error: ConfigError, file: &str, form: &arch::GgufForm) -> ConfigError {
    let ConfigError::Invalid { field, rule, value, .. } = error else { return error };
    let own = arch::FIELDS.iter().find(|(common, _)| *common == field);
    let field = own.map_or_else(
        || match field.as_str() {
            "vocab_size" => arch::EMBEDDING.to_owned(),
            "eos_token_id" => format!("{TOKENIZER_PREFIX}.eos_token_id"),
            _ => field.clone(),
        },
        |(_, own)| format!("{}.{own}", form.name),
    );
    ConfigError::Invalid { file: file.to_owned(), field, rule, value }
}
