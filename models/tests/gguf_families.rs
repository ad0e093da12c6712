//! GGUF files of each architecture, with what llama.cpp's converter changes, against the safetensors that they were made of.

use std::fs;

use models::{DecoderSpec, Device, Source, load, load_weights, read_spec, weights::Weights};
use safetensors::{Dtype, SafeTensors};

use crate::{
    architectures::{Case, cases},
    gguf_writer::{BF16, F32, Value, Writer},
    support::{Folder, Runner, Sequence, options},
};

/// The name that a file has for a tensor.
fn gguf_name(name: &str) -> String {
    let rows = [
        ("model.embed_tokens.", "token_embd."),
        ("model.norm.", "output_norm."),
        ("lm_head.", "output."),
        ("model.layers.", "blk."),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    ];
    rows.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Puts the two elements that are rotated against each other side by side, as the converter does for Llama.
fn with_neighbours(values: &[f32], head_dim: usize, cols: usize) -> Vec<f32> {
    let (head_len, half) = (head_dim * cols, head_dim / 2);
    let mut turned = Vec::new();
    for head in values.chunks_exact(head_len) {
        for pair in 0..half {
            for row in [pair, pair + half] {
                turned.extend_from_slice(&head[row * cols..(row + 1) * cols]);
            }
        }
    }
    turned
}

/// Returns a case as a file of that architecture.
fn converted(case: &Case, spec: &DecoderSpec, architecture: &str) -> Writer {
    let mut writer = Writer::new();
    write_sizes(&mut writer, spec, architecture);
    let bytes = case.bytes();
    for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        assert_eq!(tensor.dtype(), Dtype::BF16);
        let halves = tensor.data().as_chunks().0.iter().map(|half| u16::from_le_bytes(*half));
        let values: Vec<f32> = halves.map(|half| f32::from_bits(u32::from(half) << 16)).collect();
        let shape: Vec<u64> = tensor.shape().iter().map(|&size| size as u64).collect();
        let cols = if shape.len() == 1 { 1 } else { shape[1] as usize };
        let values = match architecture {
            "llama" if name.contains("q_proj") || name.contains("k_proj") => {
                with_neighbours(&values, spec.head_dim, cols)
            }
            "gemma" if name.contains("norm") => values.iter().map(|value| value + 1.0).collect(),
            _ => values,
        };
        let (kind, bytes) = if shape.len() == 1 {
            (F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        } else {
            let half = |value: &f32| ((value.to_bits() >> 16) as u16).to_le_bytes();
            (BF16, values.iter().flat_map(half).collect())
        };
        writer.add(&gguf_name(&name), &shape, kind, bytes);
    }
    writer
}

fn write_sizes(writer: &mut Writer, spec: &DecoderSpec, architecture: &str) {
    writer.set("general.architecture", architecture.into());
    let mut set = |key: &str, value| writer.set(&format!("{architecture}.{key}"), value);
    let count = |value: usize| Value::U32(value as u32);
    set("block_count", count(spec.num_layers));
    set("context_length", count(spec.max_position_embeddings));
    set("embedding_length", count(spec.hidden_size));
    set("feed_forward_length", count(spec.ffn_size));
    set("attention.head_count", count(spec.num_heads));
    set("attention.head_count_kv", count(spec.num_kv_heads));
    set("attention.key_length", count(spec.head_dim));
    set("attention.value_length", count(spec.head_dim));
    let eps =
        if architecture == "starcoder2" { "layer_norm_epsilon" } else { "layer_norm_rms_epsilon" };
    set(&format!("attention.{eps}"), Value::F32(spec.norm_eps));
    set("rope.freq_base", Value::F32(spec.rope.theta as f32));
    if let models::config::RopeKind::Linear { factor } = spec.rope.kind {
        set("rope.scaling.type", "linear".into());
        set("rope.scaling.factor", Value::F32(factor as f32));
    }
    writer.set("tokenizer.ggml.eos_token_id", Value::U32(spec.eos_token_ids[0]));
}

/// Cases by name, the architecture that their file says, and the window that it means.
const ROWS: [(&str, &str, Option<usize>); 7] = [
    ("llama", "llama", None),
    ("llama-linear", "llama", None),
    ("granite", "llama", None),
    ("mistral-no-window", "llama", None),
    ("qwen3", "qwen3", None),
    ("starcoder2", "starcoder2", Some(4096)),
    ("gemma", "gemma", None),
];

#[test]
fn files_of_every_architecture_give_the_very_logits_of_safetensors() {
    let cases = cases();
    for (name, architecture, window) in ROWS {
        let case = cases.iter().find(|case| case.name == name).unwrap();
        let expected = DecoderSpec { windows: vec![window; 2], ..case.spec() };
        let folder = Folder::new(&format!("gguf-{name}"));
        let file = converted(case, &expected, architecture).finish();
        fs::write(folder.join("model.gguf"), file).unwrap();
        let found = read_spec(Source::Directory(&folder)).unwrap();
        // Llama's form does not tell who trained it, and numbers are in single precision.
        let theta = f64::from(expected.rope.theta as f32);
        let rope = models::config::Rope { theta, ..expected.rope.clone() };
        let expected = DecoderSpec { architecture: found.architecture, rope, ..expected };
        assert_eq!(found, expected, "{name}");
        let weights = Weights::from_bytes("st", case.bytes()).unwrap();
        let options = options(Device::Cpu);
        let ids = &case.prompts[2].prompt_ids;
        let source = Source::Directory(&folder);
        let models = [
            load_weights(expected, &weights, &options, &mut |_| {}).unwrap(),
            load(source, &options, &mut |_| {}).unwrap(),
        ];
        let [expected, found] =
            models.map(|model| Runner::new(model).catch_up(&mut Sequence::new(ids)));
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn every_form_has_a_row() {
    for row in models::arch::ARCHITECTURES.iter().filter(|row| row.name != "Qwen2ForCausalLM") {
        let cases = cases();
        let of_row = cases.iter().filter(|case| case.spec().architecture == row.name);
        let mut names = of_row.map(|case| &case.name);
        assert!(names.any(|name| ROWS.iter().any(|row| row.0 == name)), "{}", row.name);
    }
}
