//! GGUF files of each architecture, with what llama.cpp's converter changes, against the safetensors that they were made of.

use std::{collections::BTreeMap, fs};

use models::{
    DecoderSpec, Device, LoadOptions, Source, load, load_weights, read_spec, weights::Weights,
};
use safetensors::{Dtype, SafeTensors};

use crate::{
    architectures::{Case, cases},
    gguf_writer::{BF16, F32, Value, Writer},
    support::{DEVICES, Folder, Runner, Sequence, options},
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
        ("mlp.gate.", "ffn_gate_inp."),
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

/// Returns the name of the stack that an expert's tensor is a part of, and the expert.
fn stack_of(name: &str) -> Option<(String, usize)> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once(".mlp.experts.")?;
    let (expert, part) = rest.split_once('.')?;
    let part = part.strip_suffix("_proj.weight")?;
    Some((format!("blk.{layer}.ffn_{part}_exps.weight"), expert.parse().unwrap()))
}

/// Puts the experts of a layer on top of each other, as the converter does.
fn add_stacks(writer: &mut Writer, bytes: &[u8]) {
    let mut stacks = BTreeMap::<String, BTreeMap<usize, (Vec<u64>, Vec<u8>)>>::new();
    for (name, tensor) in SafeTensors::deserialize(bytes).unwrap().tensors() {
        let Some((stack, expert)) = stack_of(&name) else { continue };
        let shape = tensor.shape().iter().map(|&size| size as u64).collect();
        stacks.entry(stack).or_default().insert(expert, (shape, tensor.data().to_vec()));
    }
    for (name, experts) in stacks {
        let shape = [&[experts.len() as u64][..], &experts[&0].0].concat();
        writer.add(
            &name,
            &shape,
            BF16,
            experts.into_values().flat_map(|expert| expert.1).collect(),
        );
    }
}

/// Returns a case as a file of that architecture.
pub(crate) fn converted(case: &Case, spec: &DecoderSpec, architecture: &str) -> Writer {
    let mut writer = Writer::new();
    write_sizes(&mut writer, spec, architecture);
    let bytes = case.bytes();
    add_stacks(&mut writer, &bytes);
    for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        assert_eq!(tensor.dtype(), Dtype::BF16);
        if stack_of(&name).is_some() {
            continue;
        }
        // Routers stay in single precision.
        let is_router = name.ends_with("mlp.gate.weight");
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
        let (kind, bytes) = if shape.len() == 1 || is_router {
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
    if let Some(mixture) = &spec.mixture {
        set("expert_count", count(mixture.num_experts));
        set("expert_used_count", count(mixture.experts_per_token));
        set("expert_feed_forward_length", count(mixture.expert_size));
    }
    if let models::config::RopeKind::Linear { factor } = spec.rope.kind {
        set("rope.scaling.type", "linear".into());
        set("rope.scaling.factor", Value::F32(factor as f32));
    }
    writer.set("tokenizer.ggml.eos_token_id", Value::U32(spec.eos_token_ids[0]));
}

/// Cases by name, the architecture that their file says, and the window that it means.
pub(crate) const ROWS: [(&str, &str, Option<usize>); 8] = [
    ("llama", "llama", None),
    ("llama-linear", "llama", None),
    ("granite", "llama", None),
    ("mistral-no-window", "llama", None),
    ("qwen3", "qwen3", None),
    ("qwen3-moe", "qwen3moe", None),
    ("starcoder2", "starcoder2", Some(4096)),
    ("gemma", "gemma", None),
];

#[test]
fn files_of_every_architecture_give_the_very_logits_of_safetensors() {
    let cases = cases();
    for (name, architecture, window) in ROWS {
        let case = cases.iter().find(|case| case.name == name).unwrap();
        let expected = DecoderSpec { windows: vec![window; case.spec().num_layers], ..case.spec() };
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
fn ranks_take_their_part_of_stacked_experts() {
    let cases = cases();
    let case = cases.iter().find(|case| case.name == "qwen3-moe").unwrap();
    let folder = Folder::new("gguf-experts-of-two-ranks");
    let path = folder.join("model.gguf");
    let mut writer = converted(case, &case.spec(), "qwen3moe");
    fs::write(&path, writer.finish()).unwrap();
    let probe = &case.prompts[2];
    for device in DEVICES {
        let options = LoadOptions { tensor_parallel_size: 2, ..options(device) };
        let model = load(Source::Directory(&folder), &options, &mut |_| {}).unwrap();
        let found = Runner::new(model).catch_up(&mut Sequence::new(&probe.prompt_ids));
        let error = kernels::selftest::rig::relative_error(&found, &probe.logits);
        assert!(error < 1e-4, "{error} on {device:?}");
    }
    // A stack of fewer, and one that holds no numbers.
    let error = |writer: &Writer| {
        fs::write(&path, writer.finish()).unwrap();
        let options = options(Device::Cpu);
        load(Source::Directory(&folder), &options, &mut |_| {}).err().unwrap().to_string()
    };
    writer.tensor("blk.2.ffn_up_exps.weight").bytes[..2].copy_from_slice(&[0xC0, 0x7F]);
    let broken = error(&writer);
    assert!(
        broken.contains("blk.2.ffn_up_exps.weight holds values that are no numbers"),
        "{broken}"
    );
    writer.set("qwen3moe.expert_count", Value::U32(9));
    let misshapen = error(&writer);
    assert!(misshapen.contains("must have shape [9, 24, 16], got [8, 24, 16]"), "{misshapen}");
    writer.set("qwen3moe.expert_count", Value::U32(0));
    assert!(error(&writer).contains("`qwen3moe.expert_count` must be at least 1, got 0"));
    writer.set("qwen3moe.expert_count", Value::U32(1));
    let too_few = error(&writer);
    assert!(
        too_few.contains("`qwen3moe.expert_used_count` must be from 1 to 1, got 2"),
        "{too_few}"
    );
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
