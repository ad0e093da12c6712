//! Safetensors that are right, wrong, cut short or in pieces.

use std::{fs, path::Path};

use models::{
    DecoderSpec, Device, LanguageModel, LoadOptions, ModelError, Progress, Source, load,
    tokenizer_json, weights::Weights,
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;

use crate::support::{Folder, Runner, Sequence, options, random_ids, tiny_spec};

/// A tensor to be written.
#[derive(Clone, Debug)]
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// The tensors of a model of `spec`, bf16, filled with a pattern.
fn tensors(spec: &DecoderSpec) -> Vec<Stored> {
    let plan = models::arch::plan(spec).unwrap();
    let stored = plan.tensors().enumerate().map(|(index, tensor)| {
        let ids = random_ids(tensor.num_elements(), 1000, index as u64 + 1);
        let values = ids.iter().map(|&id| half::bf16::from_f32(id as f32 / 2000.0 - 0.25));
        Stored {
            name: tensor.name.clone(),
            dtype: Dtype::BF16,
            shape: tensor.shape.clone(),
            bytes: values.flat_map(half::bf16::to_le_bytes).collect(),
        }
    });
    stored.collect()
}

fn serialize(tensors: &[Stored]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|t| (t.name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// Writes what `config.json` says of `spec`.
fn write_config(directory: &Path, spec: &DecoderSpec) {
    let config = json!({
        "architectures": [spec.architecture], "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size, "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads, "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim, "intermediate_size": spec.ffn_size,
        "max_position_embeddings": spec.max_position_embeddings, "dtype": "bfloat16",
        "tie_word_embeddings": spec.has_tied_head, "eos_token_id": spec.eos_token_ids
    });
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
}

fn load_from(directory: &Path) -> Result<Box<dyn LanguageModel>, ModelError> {
    load_on(Device::Reference, directory)
}

fn load_on(device: Device, directory: &Path) -> Result<Box<dyn LanguageModel>, ModelError> {
    load(Source::Directory(directory), &options(device), &mut |_| {})
}

fn error_of(directory: &Path) -> String {
    load_from(directory).err().map(|error| error.to_string()).unwrap_or_default()
}

fn logits(model: Box<dyn LanguageModel>) -> Vec<f32> {
    Runner::new(model).catch_up(&mut Sequence::new(&[3, 1, 4, 1, 5]))
}

/// Splits tensors over two shards with an index; `edit` may falsify it.
fn write_shards(directory: &Path, tensors: &[Stored], edit: impl Fn(&mut serde_json::Value)) {
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let (first, second) = tensors.split_at(tensors.len() / 2);
    let mut index = json!({"metadata": {"total_size": 1}, "weight_map": {}});
    for (shard, part) in shards.iter().zip([first, second]) {
        fs::write(directory.join(shard), serialize(part)).unwrap();
        for tensor in part {
            index["weight_map"][&tensor.name] = json!(shard);
        }
    }
    edit(&mut index);
    fs::write(directory.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_are_one_file() {
    for has_tied_head in [true, false] {
        let spec = DecoderSpec { has_tied_head, ..tiny_spec() };
        let (single, sharded) = (Folder::new("single"), Folder::new("sharded"));
        for directory in [&single, &sharded] {
            write_config(directory, &spec);
        }
        fs::write(single.join("model.safetensors"), serialize(&tensors(&spec))).unwrap();
        write_shards(&sharded, &tensors(&spec), |_| {});
        let expected = logits(load_from(&single).unwrap());
        assert!(expected.iter().all(|logit| logit.is_finite()));
        assert_eq!(logits(load_from(&sharded).unwrap()), expected);
    }
}

#[test]
fn widened_weights_are_the_same_model() {
    let (directory, spec) = (Folder::new("widened"), tiny_spec());
    write_config(&directory, &spec);
    let stored = tensors(&spec);
    fs::write(directory.join("model.safetensors"), serialize(&stored)).unwrap();
    let [expected, expected_on_cpu] =
        [Device::Reference, Device::Cpu].map(|device| logits(load_on(device, &directory).unwrap()));

    let options =
        LoadOptions { weight_format: models::WeightFormat::F32, ..options(Device::Reference) };
    let wide = load(Source::Directory(&directory), &options, &mut |_| {}).unwrap();
    assert_eq!(logits(wide), expected);

    // One part of a fused matrix in another element type of the same values.
    let mut mixed = stored;
    let part = mixed.iter_mut().find(|t| t.name.ends_with("0.self_attn.k_proj.weight")).unwrap();
    let widened = part.bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32());
    part.bytes = widened.flat_map(f32::to_le_bytes).collect();
    part.dtype = Dtype::F32;
    fs::write(directory.join("model.safetensors"), serialize(&mixed)).unwrap();
    assert_eq!(logits(load_from(&directory).unwrap()), expected);
    assert_eq!(logits(load_on(Device::Cpu, &directory).unwrap()), expected_on_cpu);
}

#[test]
fn ignores_only_what_has_no_meaning() {
    let (directory, spec) = (Folder::new("ignored"), tiny_spec());
    write_config(&directory, &spec);
    let mut stored = tensors(&spec);
    fs::write(directory.join("model.safetensors"), serialize(&stored)).unwrap();
    let expected = logits(load_from(&directory).unwrap());
    let extra = |name: &str, shape: Vec<usize>| Stored {
        name: name.to_owned(),
        dtype: Dtype::F32,
        bytes: vec![0; 4 * shape.iter().product::<usize>()],
        shape,
    };
    stored.push(extra("model.layers.0.self_attn.rotary_emb.inv_freq", vec![3]));
    stored.push(extra("lm_head.weight", vec![101, 36]));
    fs::write(directory.join("model.safetensors"), serialize(&stored)).unwrap();
    assert_eq!(logits(load_from(&directory).unwrap()), expected);

    stored.push(extra("model.layers.2.mlp.up_proj.weight", vec![52, 36]));
    stored.push(extra("visual.proj", vec![2]));
    fs::write(directory.join("model.safetensors"), serialize(&stored)).unwrap();
    assert_eq!(
        error_of(&directory),
        "model.safetensors: tensor `model.layers.2.mlp.up_proj.weight` of shape [52, 36] has no use in this \
         architecture (2 such)"
    );
}

#[test]
fn names_each_tensor_that_is_missing_or_misshapen() {
    let (directory, spec) =
        (Folder::new("misfits"), DecoderSpec { has_tied_head: false, ..tiny_spec() });
    write_config(&directory, &spec);
    let stored = tensors(&spec);
    assert_eq!(stored.len(), 3 + 12 * spec.num_layers);
    for index in 0..stored.len() {
        let Stored { name, shape, .. } = &stored[index];
        let mut without = stored.clone();
        without.remove(index);
        fs::write(directory.join("model.safetensors"), serialize(&without)).unwrap();
        let expected = format!("tensor `{name}` of shape {shape:?} is missing");
        assert_eq!(error_of(&directory), expected);

        // The same number of elements, so that only the shape can tell.
        let mut misshapen = stored.clone();
        misshapen[index].shape.insert(0, 1);
        fs::write(directory.join("model.safetensors"), serialize(&misshapen)).unwrap();
        let found = &misshapen[index].shape;
        let expected =
            format!("model.safetensors: tensor `{name}` must have shape {shape:?}, got {found:?}");
        assert_eq!(error_of(&directory), expected);

        let mut integers = stored.clone();
        integers[index].dtype = Dtype::I16;
        fs::write(directory.join("model.safetensors"), serialize(&integers)).unwrap();
        let expected =
            format!("model.safetensors: tensor `{name}` must be F32, F16 or BF16, got I16");
        assert_eq!(error_of(&directory), expected);
    }
}

#[test]
fn a_transposed_matrix_is_misshapen() {
    let (directory, spec) = (Folder::new("transposed"), tiny_spec());
    write_config(&directory, &spec);
    let mut stored = tensors(&spec);
    let down = stored.iter_mut().find(|t| t.name == "model.layers.1.mlp.down_proj.weight").unwrap();
    down.shape.reverse();
    fs::write(directory.join("model.safetensors"), serialize(&stored)).unwrap();
    assert_eq!(
        error_of(&directory),
        "model.safetensors: tensor `model.layers.1.mlp.down_proj.weight` must have shape [36, 52], got [52, 36]"
    );
}

#[test]
fn an_untied_head_must_be_stored() {
    let directory = Folder::new("headless");
    write_config(&directory, &DecoderSpec { has_tied_head: false, ..tiny_spec() });
    fs::write(directory.join("model.safetensors"), serialize(&tensors(&tiny_spec()))).unwrap();
    assert_eq!(error_of(&directory), "tensor `lm_head.weight` of shape [101, 36] is missing");
}

#[test]
fn refuses_files_that_were_cut_short() {
    let (directory, spec) = (Folder::new("cut"), tiny_spec());
    write_config(&directory, &spec);
    let whole = serialize(&tensors(&spec));
    for len in [0, 1, 8, 9, 500, whole.len() / 2, whole.len() - 1] {
        fs::write(directory.join("model.safetensors"), &whole[..len]).unwrap();
        let expected = "model.safetensors is not a whole safetensors file";
        assert_eq!(error_of(&directory), expected, "{len} bytes");
    }
    fs::write(directory.join("model.safetensors"), [whole.as_slice(), &[0]].concat()).unwrap();
    assert!(load_from(&directory).is_err(), "a byte too many");
    fs::write(directory.join("model.safetensors"), [0xFF; 64]).unwrap();
    assert!(load_from(&directory).is_err(), "a header of 2^64 bytes");
}

#[test]
fn a_damaged_header_is_an_error_or_another_model_but_never_a_panic() {
    let spec = tiny_spec();
    let (whole, plan) = (serialize(&tensors(&spec)), models::arch::plan(&spec).unwrap());
    let header_len = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut num_refused = 0;
    for seed in 1..400 {
        let mut damaged = whole.clone();
        for place in random_ids(3, 8 + header_len, seed) {
            damaged[place as usize] = (seed * 37) as u8;
        }
        let is_whole = Weights::from_bytes("damaged", damaged)
            .is_ok_and(|weights| weights.check(&plan).is_ok());
        num_refused += usize::from(!is_whole);
    }
    assert!(num_refused > 300, "{num_refused} of 399 refused");
}

#[test]
fn refuses_broken_shards() {
    let (directory, spec) = (Folder::new("shards"), tiny_spec());
    write_config(&directory, &spec);
    let stored = tensors(&spec);
    let second = directory.join("model-00002-of-00002.safetensors");
    let embedding = "model.embed_tokens.weight";
    let check = |expected: &str| assert_eq!(error_of(&directory), expected);

    write_shards(&directory, &stored, |_| {});
    fs::remove_file(&second).unwrap();
    check(
        "model.safetensors.index.json names the shard model-00002-of-00002.safetensors, which is not there",
    );

    write_shards(&directory, &stored, |index| {
        index["weight_map"][embedding] = json!("model-00002-of-00002.safetensors");
    });
    check(
        "model-00002-of-00002.safetensors does not hold `model.embed_tokens.weight`, though the index says so",
    );

    write_shards(&directory, &stored, |index| {
        index["weight_map"]["nowhere"] = json!("model-00002-of-00002.safetensors");
    });
    check("model-00002-of-00002.safetensors does not hold `nowhere`, though the index says so");

    write_shards(&directory, &stored, |_| {});
    let whole = fs::read(&second).unwrap();
    fs::write(&second, &whole[..whole.len() - 4]).unwrap();
    check("model-00002-of-00002.safetensors is not a whole safetensors file");

    write_shards(&directory, &stored, |_| {});
    fs::write(&second, serialize(&stored)).unwrap();
    let error = error_of(&directory);
    assert!(
        error.ends_with(
            "is in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors"
        ),
        "{error}"
    );

    for shard in ["../model.safetensors", "/etc/hostname", "a/b.safetensors", "..", ""] {
        write_shards(&directory, &stored, |index| index["weight_map"][embedding] = json!(shard));
        check(&format!(
            "model.safetensors.index.json: a shard must be a plain file name, got {shard:?}"
        ));
    }
    write_shards(&directory, &stored, |index| index["weight_map"] = json!({}));
    check("model.safetensors.index.json: `weight_map` is empty");
    fs::write(directory.join("model.safetensors.index.json"), "{").unwrap();
    assert!(error_of(&directory).starts_with("model.safetensors.index.json: "));
}

#[test]
fn says_which_file_is_not_there() {
    let directory = Folder::new("empty");
    let shown = directory.display();
    let nothing = format!(
        "{shown} has neither model.safetensors nor model.safetensors.index.json nor a GGUF file"
    );
    assert_eq!(error_of(&directory), nothing);
    write_config(&directory, &tiny_spec());
    assert_eq!(error_of(&directory), nothing);
    fs::remove_file(directory.join("config.json")).unwrap();
    fs::write(directory.join("model.safetensors"), "").unwrap();
    assert_eq!(error_of(&directory), format!("cannot read {shown}/config.json"));
    let error = tokenizer_json(Source::Directory(&directory)).unwrap_err().to_string();
    assert_eq!(error, format!("cannot read {shown}/tokenizer.json"));
    assert!(tokenizer_json(Source::Demo).unwrap().starts_with(b"{"));
}

#[test]
fn progress_ends_exactly_at_the_total() {
    let (directory, spec) = (Folder::new("progress"), tiny_spec());
    write_config(&directory, &spec);
    let stored = tensors(&spec);
    fs::write(directory.join("model.safetensors"), serialize(&stored)).unwrap();
    let mut seen: Vec<Progress> = Vec::new();
    let options = options(Device::Reference);
    load(Source::Directory(&directory), &options, &mut |progress| seen.push(progress)).unwrap();
    let total: usize = stored.iter().map(|tensor| tensor.bytes.len()).sum();
    assert_eq!(seen[0], Progress { bytes_done: 0, bytes_total: total as u64 });
    assert!(seen.is_sorted_by(|a, b| a.bytes_done < b.bytes_done));
    assert_eq!(seen[seen.len() - 1].bytes_done, total as u64);
}
