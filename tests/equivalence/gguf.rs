//! The embedded model as a GGUF file, through the whole server: the same ids, the same answers, clear refusals.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lacuna::{
    cli::compose::{compose, compose_within},
    config::{Config, Environment, RawConfig, SimdChoice},
    tokenizer::Tokenizer,
};
use models::{SimdTier, Source, tokenizer_json};

use crate::{
    cases,
    gguf_writer::{self, Value, Writer},
};

/// A file that goes away with its value.
struct File(PathBuf);

impl File {
    fn new(name: &str, writer: &Writer) -> Self {
        let name = format!("lacuna-{}-{name}.gguf", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, writer.finish()).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Settings that load the model at `path`, small and quick.
fn config(path: &str) -> Config {
    let mut raw = RawConfig::default();
    raw.model.source = Some(path.to_owned());
    raw.engine.max_num_seqs = Some(2);
    raw.engine.max_num_batched_tokens = Some(64);
    raw.engine.threads = Some("1".into());
    Config::load(&raw, &Environment::default(), None).unwrap()
}

pub(crate) fn tokenizer_of(writer: &Writer, name: &str) -> Tokenizer {
    let file = File::new(name, writer);
    Tokenizer::from_json(&tokenizer_json(Source::Gguf(&file.0)).unwrap()).unwrap()
}

/// The golden texts, and what no person would type.
fn texts() -> Vec<String> {
    let odd = [
        "",
        " ",
        "\r\n\r\n\t\t  x",
        "don't DON'T we'Ll",
        "1234567890 ٣٤٥ ²³",
        "héllo e\u{301} ∑ 日本語 🦀\u{200d}🦀",
        "<|fim_middle|>a<|endoftext|>",
        "a\u{feff}b\0c",
        "$x += <y> ^ ~z | `w`; // — “quoted”",
        "\u{a0}\u{2003}\n \n  \n   end   ",
    ];
    let golden = cases().into_iter().flat_map(|case| [case.prefix, case.suffix]);
    golden.chain(odd.map(str::to_owned)).collect()
}

#[test]
fn the_tokenizer_of_a_gguf_file_is_that_of_tokenizer_json() {
    let expected = Tokenizer::from_json(models::demo::TOKENIZER_JSON).unwrap();
    let found = tokenizer_of(&gguf_writer::demo_bf16(), "tokenizer");
    assert_eq!(found.num_ids(), expected.num_ids());
    for id in 0..expected.num_ids() {
        assert_eq!(found.token_bytes(id), expected.token_bytes(id), "{id}");
        assert_eq!(found.token_text(id), expected.token_text(id), "{id}");
    }
    for sentinel in ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|endoftext|>"] {
        assert_eq!(found.added_token_id(sentinel), expected.added_token_id(sentinel));
    }
    let texts = texts();
    assert!(texts.len() > 150, "{} texts", texts.len());
    for text in &texts {
        assert_eq!(found.encode(text).unwrap(), expected.encode(text).unwrap(), "{text:?}");
    }
}

#[test]
fn every_way_to_cut_texts_keeps_their_bytes() {
    let ways = ["qwen2", "llama-bpe", "gpt-2", "starcoder", "deepseek-coder", "default"];
    let mut encodings = Vec::new();
    for way in ways {
        let mut writer = gguf_writer::demo_bf16();
        writer.tensors.clear();
        writer.set("tokenizer.ggml.pre", way.into());
        let tokenizer = tokenizer_of(&writer, &format!("way-{way}"));
        for text in texts() {
            let ids = tokenizer.encode(&text).unwrap();
            // Only one of them composes characters.
            if way != "qwen2" {
                assert_eq!(tokenizer.decode(&ids), text, "{way}");
            }
        }
        encodings.push(tokenizer.encode("if a[123] != b['x']:\n\n    don't(\"\t  y\")").unwrap());
    }
    // Cutting shows where a merge would go over a border; the demo's merges never join digits.
    encodings.sort_unstable();
    encodings.dedup();
    assert!(encodings.len() > 1, "no two ways cut differently");
}

#[test]
fn pieces_are_those_of_the_family() {
    // A vocabulary in which each merge would go over a border of one way and not of another, and a token without merges.
    let merges = ["a 1", "1 2", "= (", "Ġ ("];
    let rows: [(&str, &str, &[&str]); 13] = [
        ("qwen2", "a12 ", &["a", "1", "2", "Ġ"]),
        ("llama-bpe", "a12 ", &["a", "12", "Ġ"]),
        ("gpt-2", "a12 ", &["a", "12", "Ġ"]),
        ("starcoder", "a12 ", &["a", "1", "2", "Ġ"]),
        ("deepseek-coder", "a12 ", &["a", "1", "2", "Ġ"]),
        ("default", "a12 ", &["a", "12", "Ġ"]),
        // A piece that is a token is taken whole, or not.
        ("llama-bpe", "xyz", &["xyz"]),
        ("qwen2", "xyz", &["x", "y", "z"]),
        // Symbols and punctuation go together, or not.
        ("gpt-2", "=(", &["=("]),
        ("deepseek-coder", "=(", &["=", "("]),
        // So do a space and punctuation.
        ("qwen2", "a (", &["a", "Ġ("]),
        ("deepseek-coder", "a (", &["a", "Ġ("]),
        ("default", "a (", &["a", "Ġ", "("]),
    ];
    let is_seen = |byte: &u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let bytes = (0..256).filter(is_seen).chain(0x100..0x144).filter_map(char::from_u32);
    let merged = merges.map(|merge| merge.replace(' ', ""));
    let mut vocab: Vec<String> = bytes.map(String::from).chain(merged).collect();
    vocab.push("xyz".to_owned());
    for (index, (way, text, expected)) in rows.into_iter().enumerate() {
        let mut writer = gguf_writer::demo_bf16();
        writer.tensors.clear();
        writer.set("tokenizer.ggml.pre", way.into());
        writer.set("tokenizer.ggml.tokens", Value::texts(vocab.iter().map(String::as_str)));
        let types = vec![Value::I32(1); vocab.len()];
        writer.set("tokenizer.ggml.token_type", Value::Array(types));
        writer.set("tokenizer.ggml.merges", Value::texts(merges));
        let ids = tokenizer_of(&writer, &format!("pieces-{index}")).encode(text).unwrap();
        let pieces: Vec<&str> = ids.iter().map(|&id| vocab[id as usize].as_str()).collect();
        assert_eq!(pieces, expected, "{way} {text:?}");
    }
}

#[test]
fn a_gguf_file_is_served() {
    let file = File::new("served", &gguf_writer::demo_bf16());
    let config = config(file.0.to_str().unwrap());
    let composed = compose(&config).unwrap();
    let name = file.0.file_stem().unwrap().to_str().unwrap();
    assert_eq!(composed.service.model().name, name);
    assert!(composed.service.model().has_fim);
}

#[test]
fn a_model_larger_than_memory_is_refused_before_it_is_loaded() {
    let file = File::new("large", &gguf_writer::demo_bf16());
    for path in ["demo", file.0.to_str().unwrap()] {
        let error = compose_within(&config(path), 1 << 20).err().unwrap();
        let message = format!("{error:#}");
        let is_clear = message.starts_with("the weights and a step take ")
            && message.contains("bytes once loaded, and 1048576 are free");
        assert!(is_clear, "{message}");
    }
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let missing = compose(&config("/no/such/model.gguf")).err().unwrap();
    assert_eq!(format!("{missing:#}"), "there is no folder or regular file /no/such/model.gguf");
    let mut writer = gguf_writer::demo_bf16();
    writer.tensor("blk.2.attn_v.weight").kind = 18;
    let file = File::new("unknown-type", &writer);
    let message = format!("{:#}", compose(&config(file.0.to_str().unwrap())).err().unwrap());
    let is_clear = message
        .contains("the element type of tensor `blk.2.attn_v.weight` must be one of")
        && message.ends_with("got IQ3_XXS");
    assert!(is_clear, "{message}");
}

#[test]
fn an_instruction_set_is_the_machines_or_an_error() {
    for (choice, tier) in [
        (SimdChoice::Avx512, SimdTier::Avx512),
        (SimdChoice::Avx2, SimdTier::Avx2),
        (SimdChoice::Scalar, SimdTier::Scalar),
    ] {
        let mut config = config("demo");
        config.engine.cpu_simd = Some(choice);
        let composed = compose(&config);
        assert_eq!(composed.is_ok(), tier.is_available(), "{tier}");
        if let Err(error) = composed {
            let expected = "`engine.cpu_simd` must be one that this machine has, ";
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}
