//! Models in GGUF files: the same logits as out of safetensors, and errors that say what is wrong.

use std::{fs, path::Path};

use models::{
    DecoderSpec, Device, LoadOptions, ModelError, Source, WeightFormat, load, open_weights,
    read_spec, tokenizer_json, weight_footprint,
    weights::{TensorSpec, Weights},
};
use safetensors::{Dtype, tensor::TensorView};

use crate::{
    gguf_writer::{self, Edit, Value, Writer},
    support::{DEVICES, Folder, Runner, Sequence, options, random_ids},
};

/// Element types by their number.
const F16: u32 = 1;

fn as_f32(_: usize, _: usize, values: &[f32]) -> (u32, Vec<u8>) {
    (gguf_writer::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn as_f16(_: usize, _: usize, values: &[f32]) -> (u32, Vec<u8>) {
    (F16, values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect())
}

/// A file of the demo model, and a folder for it.
pub(crate) fn file(name: &str, writer: &Writer) -> Folder {
    let folder = Folder::new(name);
    fs::write(folder.join("demo.gguf"), writer.finish()).unwrap();
    folder
}

fn error_of(source: Source<'_>) -> String {
    load(source, &options(Device::Reference), &mut |_| {})
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

fn error_with(name: &str, edit: impl FnOnce(&mut Writer)) -> String {
    let mut writer = gguf_writer::demo_bf16();
    edit(&mut writer);
    error_of(Source::Directory(&file(name, &writer)))
}

fn logits(source: Source<'_>, options: &LoadOptions) -> Vec<f32> {
    let mut runner = Runner::new(load(source, options, &mut |_| {}).unwrap());
    runner.catch_up(&mut Sequence::new(&random_ids(6, 8000, 5)))
}

#[test]
fn the_spec_is_that_of_config_json() {
    let folder = file("spec", &gguf_writer::demo_bf16());
    let path = folder.join("demo.gguf");
    let expected = read_spec(Source::Demo).unwrap();
    assert_eq!(read_spec(Source::Directory(&folder)).unwrap(), expected);
    assert_eq!(read_spec(Source::at(&path)).unwrap(), expected);
    assert_eq!(Source::at(&path), Source::Gguf(&path));
    assert_eq!(Source::at(&folder), Source::Directory(&folder));
}

#[test]
fn plain_types_give_the_very_logits_of_safetensors() {
    let bf16 = file("bf16", &gguf_writer::demo_bf16());
    let f32 = file("f32", &gguf_writer::demo(&as_f32));
    for device in DEVICES {
        let stored = options(device);
        let wide = LoadOptions { weight_format: WeightFormat::F32, ..options(device) };
        let expected = logits(Source::Demo, &stored);
        assert_eq!(logits(Source::Directory(&bf16), &stored), expected, "{device:?}");
        let expected = logits(Source::Demo, &wide);
        assert_eq!(logits(Source::Directory(&f32), &stored), expected, "{device:?}");
        assert_eq!(logits(Source::Directory(&bf16), &wide), expected, "{device:?}");
    }
}

#[test]
fn f16_gives_the_logits_of_f16_safetensors() {
    let writer = gguf_writer::demo(&as_f16);
    let gguf = file("f16", &writer);
    // The same numbers in the other format: matrices f16, vectors f32.
    let plan = models::arch::plan(&read_spec(Source::Demo).unwrap()).unwrap();
    let renamed = models::arch::gguf_plan(&read_spec(Source::Demo).unwrap()).unwrap();
    let views = plan.tensors().zip(renamed.tensors()).map(|(tensor, gguf)| {
        let stored = writer.tensors.iter().find(|stored| stored.name == gguf.name).unwrap();
        let dtype = if stored.kind == F16 { Dtype::F16 } else { Dtype::F32 };
        let view = TensorView::new(dtype, tensor.shape.clone(), &stored.bytes).unwrap();
        (tensor.name.as_str(), view)
    });
    let folder = Folder::new("f16-safetensors");
    fs::write(folder.join("config.json"), models::demo::CONFIG_JSON).unwrap();
    fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap())
        .unwrap();
    for device in DEVICES {
        let expected = logits(Source::Directory(&folder), &options(device));
        assert_eq!(logits(Source::Directory(&gguf), &options(device)), expected, "{device:?}");
    }
}

#[test]
fn a_head_of_its_own_is_used() {
    let mut writer = gguf_writer::demo_bf16();
    let tied = file("tied", &writer);
    let mut head = writer.tensor("token_embd.weight").clone();
    head.name = "output.weight".to_owned();
    writer.tensors.push(head.clone());
    let same = file("untied-same", &writer);
    let values = head.bytes.len() / 2;
    head.bytes[values..].fill(0);
    writer.tensors.pop();
    writer.tensors.push(head);
    let other = file("untied-other", &writer);
    assert!(read_spec(Source::Directory(&tied)).unwrap().has_tied_head);
    assert!(!read_spec(Source::Directory(&other)).unwrap().has_tied_head);
    let [tied, same, other] = [&tied, &same, &other]
        .map(|folder| logits(Source::Directory(folder), &options(Device::Cpu)));
    assert_eq!(same, tied);
    assert_eq!(other[..4096], tied[..4096]);
    assert!(other[4096..].iter().all(|logit| *logit == 0.0));
}

#[test]
fn one_id_of_an_end_is_enough_and_none_is_allowed() {
    let mut writer = gguf_writer::demo_bf16();
    for expected in [[8183].as_slice(), &[]] {
        let key = if expected.is_empty() { "eos_token_id" } else { "eot_token_id" };
        writer.remove(&format!("tokenizer.ggml.{key}"));
        let spec = read_spec(Source::Directory(&file("ends", &writer))).unwrap();
        assert_eq!(spec.eos_token_ids, expected);
    }
}

#[test]
fn metadata_that_cannot_be_run_is_refused() {
    let rows: [Edit; 17] = [
        ("`general.architecture` is missing", |w| w.remove("general.architecture")),
        (
            "`general.architecture` must be one of qwen2, qwen3, qwen3moe, llama, starcoder2, gemma, got \"mamba\"",
            |w| {
                w.set("general.architecture", "mamba".into());
            },
        ),
        (
            "`general.architecture` must be one of qwen2, qwen3, qwen3moe, llama, starcoder2, gemma, got 7",
            |w| {
                w.set("general.architecture", Value::U32(7));
            },
        ),
        ("`qwen2.block_count` is missing", |w| w.remove("qwen2.block_count")),
        ("`qwen2.block_count` must be a whole number from 0, got \"8\"", |w| {
            w.set("qwen2.block_count", "8".into());
        }),
        ("`qwen2.block_count` must be from 1 to 1024, got 0", |w| {
            w.set("qwen2.block_count", Value::U32(0));
        }),
        ("`qwen2.block_count` must be from 1 to 1024, got 4000000000", |w| {
            w.set("qwen2.block_count", Value::U32(4_000_000_000));
        }),
        ("`qwen2.attention.head_count_kv` must be a divisor of", |w| {
            w.set("qwen2.attention.head_count_kv", Value::U32(3));
        }),
        (
            "`qwen2.attention.head_count` must be a divisor of `qwen2.embedding_length` (256), got 0",
            |w| {
                w.set("qwen2.attention.head_count", Value::U32(0));
            },
        ),
        ("`qwen2.attention.layer_norm_rms_epsilon` is missing", |w| {
            w.remove("qwen2.attention.layer_norm_rms_epsilon");
        }),
        ("`qwen2.attention.layer_norm_rms_epsilon` must be a number, got \"NaN\"", |w| {
            w.set("qwen2.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN));
        }),
        ("`qwen2.rope.freq_base` must be finite and at least 1, got 0", |w| {
            w.set("qwen2.rope.freq_base", Value::F32(0.0));
        }),
        (
            "`qwen2.rope.scaling.type` must be \"none\" or \"linear\", the only kinds that are supported, got \"yarn\"",
            |w| {
                w.set("qwen2.rope.scaling.type", "yarn".into());
            },
        ),
        ("`qwen2.rope.dimension_count` must be the head's width (64), got 32", |w| {
            w.set("qwen2.rope.dimension_count", Value::U32(32));
        }),
        ("`qwen2.attention.sliding_window` must be at least `qwen2.context_length` (2048)", |w| {
            w.set("qwen2.attention.sliding_window", Value::U32(1024));
        }),
        ("`tokenizer.ggml.eos_token_id` must be below `vocab_size` (8192), got 9000", |w| {
            w.set("tokenizer.ggml.eos_token_id", Value::U32(9000));
        }),
        ("`token_embd.weight` is missing", |w| w.tensors.retain(|t| t.name != "token_embd.weight")),
    ];
    for (index, (expected, edit)) in rows.into_iter().enumerate() {
        let error = error_with(&format!("metadata-{index}"), edit);
        assert!(
            error.starts_with(&format!("demo.gguf: {expected}")),
            "{error}\nis not\n{expected}"
        );
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let rows: [Edit; 4] = [
        ("tensor `blk.7.ffn_up.weight` of shape [768, 256] is missing", |w| {
            w.tensors.retain(|tensor| tensor.name != "blk.7.ffn_up.weight");
        }),
        ("demo.gguf: tensor `blk.3.attn_q.weight` must have shape [256, 256], got [65536]", |w| {
            w.tensor("blk.3.attn_q.weight").shape = vec![256 * 256];
        }),
        (
            "demo.gguf: tensor `rope_freqs.weight` of shape [32] has no use in this architecture (1 such)",
            |w| w.add("rope_freqs.weight", &[32], 0, vec![0; 128]),
        ),
        ("demo.gguf: the element type of tensor `blk.0.attn_k.weight` must be one of F32, ", |w| {
            w.tensor("blk.0.attn_k.weight").kind = 20;
        }),
    ];
    for (index, (expected, edit)) in rows.into_iter().enumerate() {
        let error = error_with(&format!("tensors-{index}"), edit);
        assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
    }
}

#[test]
fn a_cut_file_is_refused_before_anything_is_loaded() {
    let bytes = gguf_writer::demo_bf16().finish();
    let folder = Folder::new("cut-gguf");
    for len in [0, 3, 24, 100, bytes.len() / 2, bytes.len() - 64] {
        fs::write(folder.join("demo.gguf"), &bytes[..len]).unwrap();
        let error = error_of(Source::Directory(&folder));
        let is_clear = error.starts_with("demo.gguf: ") && error.contains("the file ends at byte");
        assert!(is_clear, "{len} bytes: {error}");
    }
}

#[test]
fn a_folder_has_one_gguf_or_says_which() {
    let bytes = gguf_writer::demo_bf16().finish();
    let folder = Folder::new("several");
    fs::write(folder.join("b.gguf"), &bytes).unwrap();
    fs::write(folder.join("a.gguf"), &bytes).unwrap();
    let shown = folder.display();
    let expected = format!("{shown} has 2 GGUF files; name one of them: a.gguf, b.gguf");
    assert_eq!(error_of(Source::Directory(&folder)), expected);
    assert_eq!(error_of(Source::Gguf(&folder.join("a.gguf"))), "");
    // Safetensors win, whatever lies beside them.
    fs::write(folder.join("config.json"), models::demo::CONFIG_JSON).unwrap();
    fs::write(folder.join("model.safetensors"), models::demo::model_safetensors()).unwrap();
    assert_eq!(error_of(Source::Directory(&folder)), "");
}

#[test]
fn a_damaged_file_is_an_error_or_another_model_but_never_a_panic() {
    let mut writer = gguf_writer::demo_bf16();
    writer.tensors.clear();
    for name in ["token_embd.weight", "blk.0.attn_q.weight", "output_norm.weight"] {
        writer.add(name, &[8, 32], gguf_writer::F32, vec![0; 8 * 32 * 4]);
    }
    // The characters that stand for bytes, a merged token and a sentinel.
    let is_seen = |byte: &u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let bytes = (0..256).filter(is_seen).chain(0x100..0x144).filter_map(char::from_u32);
    let tokens: Vec<String> =
        bytes.map(String::from).chain(["ab".into(), "<|x|>".into()]).collect();
    let mut types = vec![Value::I32(1); tokens.len()];
    types[257] = Value::I32(3);
    writer.set("tokenizer.ggml.tokens", Value::texts(tokens.iter().map(String::as_str)));
    writer.set("tokenizer.ggml.token_type", Value::Array(types));
    writer.set("tokenizer.ggml.merges", Value::texts(["a b"]));
    let whole = writer.finish();
    let (folder, header_len) = (Folder::new("damaged-gguf"), whole.len() - 3 * 8 * 32 * 4);
    let path = folder.join("demo.gguf");
    let mut num_refused = 0;
    for seed in 1..1500_u64 {
        let mut damaged = whole.clone();
        for place in random_ids(1 + (seed % 3) as usize, header_len, seed) {
            damaged[place as usize] = (seed * 37 / 3) as u8;
        }
        fs::write(&path, damaged).unwrap();
        let source = Source::Gguf(&path);
        num_refused += usize::from(tokenizer_json(source).is_err());
        let Ok(weights) = open_weights(source) else { continue };
        // A file of three tensors is no model, whatever its sizes say now.
        let is_whole = read_spec(source)
            .is_ok_and(|spec| weights.plan(&spec).is_ok_and(|plan| weights.check(&plan).is_ok()));
        assert!(!is_whole, "seed {seed}");
    }
    assert!((100..1499).contains(&num_refused), "{num_refused} of 1499 tokenizers refused");
}

/// Writes a model in three files; `edit` may falsify one, by its index.
fn write_parts(folder: &Path, edit: impl Fn(usize, &mut Writer)) {
    let whole = gguf_writer::demo_bf16();
    for (index, tensors) in whole.tensors.chunks(whole.tensors.len().div_ceil(3)).enumerate() {
        let mut part = Writer { tensors: tensors.to_vec(), ..whole.clone() };
        if index > 0 {
            part.entries.clear();
        }
        part.set("split.no", Value::U16(index as u16));
        part.set("split.count", Value::U16(3));
        edit(index, &mut part);
        fs::write(folder.join(format!("m-0000{}-of-00003.gguf", index + 1)), part.finish())
            .unwrap();
    }
}

#[test]
fn parts_are_one_model() {
    let folder = Folder::new("parts");
    write_parts(&folder, |_, _| {});
    let expected = logits(Source::Demo, &options(Device::Cpu));
    assert_eq!(logits(Source::Directory(&folder), &options(Device::Cpu)), expected);
    let first = folder.join("m-00001-of-00003.gguf");
    assert_eq!(logits(Source::Gguf(&first), &options(Device::Cpu)), expected);

    let second = folder.join("m-00002-of-00003.gguf");
    let error = Weights::open_gguf(&second).unwrap_err().to_string();
    let expected = "m-00002-of-00003.gguf: `split.no` must be 0: a model is named by the first of its files, got 1";
    assert_eq!(error, expected);
    let renamed = folder.join("renamed.gguf");
    fs::rename(&first, &renamed).unwrap();
    let error = Weights::open_gguf(&renamed).unwrap_err().to_string();
    assert!(
        error.starts_with("renamed.gguf: `split.count` must be 1 in a file whose name"),
        "{error}"
    );
    fs::rename(&renamed, &first).unwrap();

    write_parts(&folder, |index, part| {
        if index == 2 {
            part.add("token_embd.weight", &[1], 0, vec![0; 4]);
        }
    });
    let error = error_of(Source::Directory(&folder));
    assert!(
        error.starts_with(
            "`token_embd.weight` is in m-00001-of-00003.gguf and in m-00003-of-00003.gguf"
        ),
        "{error}"
    );
    fs::remove_file(&second).unwrap();
    let error = error_of(Source::Directory(&folder));
    assert_eq!(error, format!("cannot read {}", second.display()));
}

#[test]
fn the_memory_of_the_weights_is_known_before_they_are_loaded() {
    let spec = read_spec(Source::Demo).unwrap();
    let plan = models::arch::plan(&spec).unwrap();
    let vectors = plan.tensors().filter(|tensor| tensor.shape.len() == 1);
    let num_in_vectors: usize = vectors.map(TensorSpec::num_elements).sum();
    let num_in_matrices = plan.num_parameters() - num_in_vectors as u64;
    let vector_bytes = 4 * num_in_vectors as u64;
    let footprint = |source, format| {
        weight_footprint(&spec, &open_weights(source).unwrap(), format, Device::Cpu, 1).unwrap()
    };
    let zeros =
        |rows: usize, cols: usize, kind, per_256| (kind, vec![0; rows * cols / 256 * per_256]);
    let q8 = file("bytes-q8", &gguf_writer::demo(&|rows, cols, _| zeros(rows, cols, 8, 8 * 34)));
    let q4 = file("bytes-q4", &gguf_writer::demo(&|rows, cols, _| zeros(rows, cols, 12, 144)));
    let rows = [
        (Source::Demo, WeightFormat::Stored, num_in_matrices * 2, "bf16"),
        (Source::Demo, WeightFormat::F32, num_in_matrices * 4, "f32"),
        (Source::Demo, WeightFormat::Int8, num_in_matrices * 17 / 16, "int8"),
        (Source::Directory(&q8), WeightFormat::Stored, num_in_matrices * 34 / 32, "q8_0"),
        (Source::Directory(&q8), WeightFormat::F32, num_in_matrices * 4, "f32"),
        // A scale and a minimum for each 32 in half precision, where the file has six bits for either.
        (Source::Directory(&q4), WeightFormat::Stored, num_in_matrices * (16 + 4) / 32, "q4_k"),
        // Blocks keep their codes.
        (Source::Directory(&q4), WeightFormat::Int8, num_in_matrices * (16 + 4) / 32, "q4_k"),
    ];
    for (source, format, expected, name) in rows {
        let found = footprint(source, format);
        assert_eq!(found.num_bytes, expected + vector_bytes, "{source:?} {format:?}");
        // The demo's embedding is its head.
        assert_eq!(found.step_bytes, found.num_bytes);
        assert_eq!(found.types.into_iter().collect::<Vec<_>>(), [name]);
    }
    let shape = models::shape("qwen2.5-coder-7b").unwrap();
    let untied = DecoderSpec { num_layers: 1, windows: vec![None], hidden_size: 64, ..shape };
    let untied =
        DecoderSpec { num_heads: 2, num_kv_heads: 1, head_dim: 32, ffn_size: 96, ..untied };
    let untied = DecoderSpec { vocab_size: 160, ..untied };
    let weights = models::random_weights(&untied, 1).unwrap();
    let found = weight_footprint(&untied, &weights, WeightFormat::Stored, Device::Cpu, 1).unwrap();
    assert_eq!(found.num_bytes - found.step_bytes, 160 * 64 * 2);
    let other = DecoderSpec { ffn_size: 512, ..spec };
    let error = weight_footprint(
        &other,
        &open_weights(Source::Demo).unwrap(),
        WeightFormat::Stored,
        Device::Cpu,
        1,
    );
    assert!(matches!(error, Err(ModelError::Weights(_))));
}

#[test]
fn every_row_names_every_tensor() {
    for row in models::arch::ARCHITECTURES {
        for has_tied_head in [true, false] {
            let demo = read_spec(Source::Demo).unwrap();
            let spec = DecoderSpec { architecture: row.name, has_tied_head, ..demo };
            let Ok(plan) = models::arch::gguf_plan(&spec) else { continue };
            for tensor in plan.tensors() {
                assert!(!tensor.name.contains("model."), "{}: {}", row.name, tensor.name);
            }
        }
    }
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    // Half precision's infinity and bf16's NaN, as an element and as the scale of a block.
    let rows: [(&str, u32, &[u8]); 3] = [
        ("inf-f16", 1, &[0x00, 0x7C]),
        ("nan-bf16", 30, &[0xC0, 0x7F]),
        ("nan-q8", 8, &[0x00, 0x7E]),
    ];
    for (name, kind, bad) in rows {
        let zeros = |rows: usize, cols: usize, _: &[f32]| {
            let per_32 = if kind == 8 { 34 } else { 64 };
            (kind, vec![0; rows * cols / 32 * per_32])
        };
        let mut writer = gguf_writer::demo(&zeros);
        let load = |writer: &Writer| {
            let folder = file(name, writer);
            load(Source::Directory(&folder), &options(Device::Cpu), &mut |_| {}).map(drop)
        };
        load(&writer).unwrap();
        writer.tensor("blk.3.ffn_up.weight").bytes[..bad.len()].copy_from_slice(bad);
        let error = load(&writer).unwrap_err().to_string();
        assert!(error.contains("blk.3.ffn_up.weight holds values that are no numbers"), "{error}");
    }
}
