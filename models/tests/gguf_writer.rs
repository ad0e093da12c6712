//! Writes GGUF files, right and wrong ones, and the embedded model as one. Shared with the tests of the server.

use std::sync::LazyLock;

use models::demo;
use serde_json::Value as Json;

/// Element types by their number in a file.
pub(crate) const F32: u32 = 0;
/// The type of the demo's own matrices.
pub(crate) const BF16: u32 = 30;

/// What becomes of a matrix: the number of its element type and its bytes, given rows, columns and elements.
pub(crate) type Encode<'a> = &'a dyn Fn(usize, usize, &[f32]) -> (u32, Vec<u8>);

/// The beginning of an error, and the edit of a file that brings it.
pub(crate) type Edit = (&'static str, fn(&mut Writer));

/// A value of the metadata, of one of the kinds that models use; `kind` is its number in a file.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    U32(u32),
    U16(u16),
    I32(i32),
    F32(f32),
    Flag(bool),
    Text(String),
    /// Elements of one kind; an empty array has texts.
    Array(Vec<Value>),
    /// A number of a kind, and its bytes.
    Raw(u32, Vec<u8>),
}

impl Value {
    pub(crate) fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Array(texts.into_iter().map(Self::from).collect())
    }

    fn kind(&self) -> u32 {
        match self {
            Self::U16(_) => 2,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Flag(_) => 7,
            Self::Text(_) => 8,
            Self::Array(_) => 9,
            Self::Raw(kind, _) => *kind,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::U16(number) => out.extend(number.to_le_bytes()),
            Self::U32(number) => out.extend(number.to_le_bytes()),
            Self::I32(number) => out.extend(number.to_le_bytes()),
            Self::F32(number) => out.extend(number.to_le_bytes()),
            Self::Flag(flag) => out.push((*flag).into()),
            Self::Text(text) => write_text(text, out),
            Self::Array(values) => {
                out.extend(values.first().map_or(8, Self::kind).to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                for value in values {
                    value.write(out);
                }
            }
            Self::Raw(_, bytes) => out.extend(bytes),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// A row of the table of tensors, and its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Rows first, as everywhere but in the file.
    pub(crate) shape: Vec<u64>,
    /// The number of the element type.
    pub(crate) kind: u32,
    /// Instead of the place behind the tensor before.
    pub(crate) offset: Option<u64>,
    pub(crate) bytes: Vec<u8>,
}

/// A file to be.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) version: u32,
    pub(crate) alignment: u64,
    pub(crate) entries: Vec<(String, Value)>,
    pub(crate) tensors: Vec<Tensor>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { version: 3, alignment: 32, entries: Vec::new(), tensors: Vec::new() }
    }

    /// Sets a value, in place of what the key had.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        match self.entries.iter_mut().find(|entry| entry.0 == key) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key.to_owned(), value)),
        }
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.entries.retain(|entry| entry.0 != key);
    }

    pub(crate) fn add(&mut self, name: &str, shape: &[u64], kind: u32, bytes: Vec<u8>) {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        self.tensors.push(Tensor { name, shape, kind, offset: None, bytes });
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    pub(crate) fn finish(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            write_text(key, &mut out);
            out.extend(value.kind().to_le_bytes());
            value.write(&mut out);
        }
        let mut next = 0;
        let mut data = Vec::new();
        for tensor in &self.tensors {
            write_text(&tensor.name, &mut out);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            for size in tensor.shape.iter().rev() {
                out.extend(size.to_le_bytes());
            }
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(next).to_le_bytes());
            data.extend(&tensor.bytes);
            data.resize(data.len().next_multiple_of(self.alignment as usize), 0);
            next = data.len() as u64;
        }
        out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
        out.extend(data);
        out
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Returns the embedded model as GGUF. Vectors are f32, as converters write them.
pub(crate) fn demo(encode: Encode<'_>) -> Writer {
    let mut writer = Writer::new();
    write_sizes(&mut writer);
    write_tokenizer(&mut writer);
    for (name, shape, values) in demo_tensors() {
        let bytes = || values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (kind, bytes) = match shape[..] {
            [rows, cols] => encode(rows as usize, cols as usize, &values),
            _ => (F32, bytes()),
        };
        writer.add(&gguf_name(&name), &shape, kind, bytes);
    }
    writer
}

/// Returns the embedded model as GGUF, its matrices as they are.
pub(crate) fn demo_bf16() -> Writer {
    // Made once: its eight million numbers pass through code that tests do not optimise.
    static WRITER: LazyLock<Writer> = LazyLock::new(|| demo(&as_bf16));
    WRITER.clone()
}

/// Encodes a matrix as the demo has it.
fn as_bf16(_: usize, _: usize, values: &[f32]) -> (u32, Vec<u8>) {
    let upper_half = |value: &f32| ((value.to_bits() >> 16) as u16).to_le_bytes();
    (BF16, values.iter().flat_map(upper_half).collect())
}

fn write_sizes(writer: &mut Writer) {
    let config: Json = serde_json::from_slice(demo::CONFIG_JSON).unwrap();
    let count = |field: &str| Value::U32(config[field].as_u64().unwrap() as u32);
    let number = |field: &str| Value::F32(config[field].as_f64().unwrap() as f32);
    writer.set("general.architecture", "qwen2".into());
    writer.set("general.name", "demo".into());
    writer.set("general.quantization_version", Value::U32(2));
    writer.set("qwen2.block_count", count("num_hidden_layers"));
    writer.set("qwen2.context_length", count("max_position_embeddings"));
    writer.set("qwen2.embedding_length", count("hidden_size"));
    writer.set("qwen2.feed_forward_length", count("intermediate_size"));
    writer.set("qwen2.attention.head_count", count("num_attention_heads"));
    writer.set("qwen2.attention.head_count_kv", count("num_key_value_heads"));
    writer.set("qwen2.attention.layer_norm_rms_epsilon", number("rms_norm_eps"));
    writer.set("qwen2.rope.freq_base", number("rope_theta"));
    let ends: Json = serde_json::from_slice(demo::GENERATION_CONFIG_JSON).unwrap();
    let end = |index: usize| Value::U32(ends["eos_token_id"][index].as_u64().unwrap() as u32);
    writer.set("tokenizer.ggml.eos_token_id", end(0));
    writer.set("tokenizer.ggml.eot_token_id", end(1));
    writer.set("tokenizer.ggml.add_bos_token", Value::Flag(false));
}

fn write_tokenizer(writer: &mut Writer) {
    let definition: Json = serde_json::from_slice(demo::TOKENIZER_JSON).unwrap();
    let vocab = definition["model"]["vocab"].as_object().unwrap();
    let added = definition["added_tokens"].as_array().unwrap();
    let num_ids = vocab.len() + added.len();
    let mut tokens: Vec<String> = (0..num_ids).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![5; num_ids];
    for (token, id) in vocab {
        let id = id.as_u64().unwrap() as usize;
        (tokens[id], types[id]) = (token.clone(), 1);
    }
    for token in added {
        let id = token["id"].as_u64().unwrap() as usize;
        (tokens[id], types[id]) = (token["content"].as_str().unwrap().to_owned(), 3);
    }
    let merges = definition["model"]["merges"].as_array().unwrap().iter();
    let merges = merges.map(|pair| {
        Value::Text(format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
    });
    writer.set("tokenizer.ggml.model", "gpt2".into());
    writer.set("tokenizer.ggml.pre", "qwen2".into());
    writer.set("tokenizer.ggml.merges", Value::Array(merges.collect()));
    let tokens = tokens.iter().map(String::as_str);
    writer.set("tokenizer.ggml.tokens", Value::texts(tokens));
    let types = types.into_iter().map(Value::I32).collect();
    writer.set("tokenizer.ggml.token_type", Value::Array(types));
}

/// Returns the tensors of the embedded safetensors, widened.
fn demo_tensors() -> Vec<(String, Vec<u64>, Vec<f32>)> {
    let file = demo::model_safetensors();
    let (length, rest) = file.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Json = serde_json::from_slice(header).unwrap();
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let tensors = tensors.map(|(name, info)| {
        assert_eq!(info["dtype"], "BF16", "{name}");
        let [begin, end] = [0, 1].map(|at| info["data_offsets"][at].as_u64().unwrap() as usize);
        let halves = data[begin..end].as_chunks().0.iter().map(|half| u16::from_le_bytes(*half));
        let values = halves.map(|half| f32::from_bits(u32::from(half) << 16)).collect();
        let shape = info["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap());
        (name.clone(), shape.collect(), values)
    });
    tensors.collect()
}

fn gguf_name(name: &str) -> String {
    let rows = [
        ("model.embed_tokens.", "token_embd."),
        ("model.norm.", "output_norm."),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    rows.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}
