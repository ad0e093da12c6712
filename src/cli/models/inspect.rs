//! `lacuna models inspect`: what a model is and where it fits, from its headers alone.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use models::{
    DecoderSpec, Device, KvDType, ModelError, Source, WeightFootprint, WeightFormat,
    activation_bytes, gguf::Gguf, gpu_room_bytes, kv_bytes_per_block, open_weights, read_spec,
    weight_footprint,
};

use crate::{
    cli::{
        CliError, compose,
        fetch::progress::PullProgress,
        models::{
            Shared,
            chatting::Chatting,
            filling::Filling,
            hub_model, of_argument,
            report::{Card, Facts, Kept, Weights},
        },
        print, runtime, start_logs,
    },
    config::{Config, EngineConfig, Environment, HubModel},
    hub::{self, HubError, Outline, PullEvent},
};

/// Sizes of common cards: L4 and T4, 3090 and L4, L40S and A6000, A100 and H100, H200.
///
/// # Units
/// GiB
const CARDS: &[u64] = &[16, 24, 48, 80, 141];

/// How much of a GGUF file is fetched, until its header is in it: most of that is the vocabulary.
const GGUF_BYTES: &[u64] = &[8 << 20, 32 << 20, 96 << 20];

/// Settings of what weights become.
const FORMATS: [(&str, WeightFormat); 4] = [
    ("--dtype bf16", WeightFormat::Stored),
    ("--quantize int8", WeightFormat::Int8),
    ("--quantize fp8", WeightFormat::Fp8),
    ("--dtype f32", WeightFormat::F32),
];

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lacuna models inspect ~/models/coder
  lacuna models inspect Qwen/Qwen2.5-Coder-7B
  lacuna models inspect Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:Q4_K_M --json

Of a model that is not in the cache the headers are fetched, and no weights. What fits is computed for --max-num-seqs, \
--max-num-batched-tokens and --gpu-memory-utilization of the file of settings, else of the defaults.")]
pub(super) struct InspectArgs {
    /// A folder, a GGUF file, a name on the hub, or demo.
    #[arg(value_name = "DIR|FILE.gguf|org/name")]
    model: String,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    shared: Shared,
}

/// Prints what the model is.
///
/// # Errors
/// [`CliError::Usage`] for a name that is none, [`CliError::Failed`] where the model cannot be read.
pub(super) fn run(arguments: InspectArgs, environment: &Environment) -> Result<(), CliError> {
    let (name, is_json) = (arguments.model.clone(), arguments.json);
    let config = arguments.shared.load(Some(arguments.model), environment);
    let config = config.map_err(|error| of_argument(error, None))?;
    start_logs(&config.log)?;
    let facts = match hub_model(&config) {
        Some(model) => facts_of_hub_model(&config, model, name)?,
        None => facts(&config, compose::path(&config)?.as_deref(), name)?,
    };
    if is_json {
        let json = serde_json::to_string_pretty(&facts).context("cannot write JSON")?;
        return print(&format!("{json}\n"));
    }
    print(&facts.to_text())
}

/// Reads the model in the cache, else its outline on the hub.
fn facts_of_hub_model(config: &Config, model: &HubModel, name: String) -> anyhow::Result<Facts> {
    match hub::find(&config.hub, model) {
        Err(HubError::NotCached { .. } | HubError::Incomplete { .. }) if !config.hub.is_offline => {
        }
        found => return facts(config, Some(&found?), name),
    }
    let (runtime, progress) = (runtime(1)?, PullProgress::new(model));
    let mut sizes = GGUF_BYTES.iter();
    loop {
        let size = sizes.next().copied();
        let watch = |event: PullEvent<'_>| progress.show(&event);
        let outline = hub::outline(&config.hub, model, size.unwrap_or_default(), &watch);
        let Outline { path, commit, .. } = &runtime.block_on(outline)?;
        // Of a model in several files the first has the vocabulary; what the others have is short.
        if sizes.len() > 0 && path.is_file() && is_cut(path, size.unwrap_or_default())? {
            continue;
        }
        let facts = facts(config, Some(path), name)?;
        return Ok(Facts { commit: Some(commit.clone()), ..facts });
    }
}

/// Returns whether the header of a GGUF file takes more than what was fetched of it.
fn is_cut(path: &Path, fetched_bytes: u64) -> anyhow::Result<bool> {
    let mut start = Vec::new();
    let file = File::open(path).and_then(|file| file.take(fetched_bytes).read_to_end(&mut start));
    file.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Gguf::is_cut(&start))
}

/// Reads the headers of a model that lies at `path`; without one it is the embedded model.
fn facts(config: &Config, path: Option<&Path>, name: String) -> anyhow::Result<Facts> {
    let source = path.map_or(Source::Demo, Source::at);
    let spec = read_spec(source).context("cannot read the model's configuration")?;
    let stored = open_weights(source).context("cannot read the headers of the weights")?;
    let tokenizer = compose::tokenizer(source, &spec)?;
    let (weights, gpu_bytes) = weights(&spec, &stored)?;
    let kv_bytes = |kv_dtype| {
        let block_size = config.engine.block_size;
        kv_bytes_per_block(&spec, block_size, kv_dtype) / block_size as u64
    };
    Ok(Facts {
        model: name,
        commit: None,
        architecture: spec.architecture,
        num_layers: spec.num_layers,
        hidden_size: spec.hidden_size,
        ffn_size: spec.ffn_size,
        num_heads: spec.num_heads,
        num_kv_heads: spec.num_kv_heads,
        head_dim: spec.head_dim,
        vocab_size: spec.vocab_size,
        has_tied_head: spec.has_tied_head,
        context_tokens: spec.max_position_embeddings,
        window: spec.windows.iter().copied().flatten().min(),
        num_parameters: stored.plan(&spec)?.num_parameters(),
        weights,
        kv_bytes_per_token_f16: kv_bytes(KvDType::F16),
        kv_bytes_per_token_f32: kv_bytes(KvDType::F32),
        fim: Filling::of(config, spec.architecture, &tokenizer),
        chat: Chatting::of(compose::chat_template(source, &tokenizer)),
        licence: path.and_then(licence_beside),
        cards: cards(&spec, &config.engine, &gpu_bytes),
    })
}

/// Returns what the weights take by each of [`FORMATS`], and what of a GPU for good; `None` where that refuses them.
fn weights(
    spec: &DecoderSpec,
    stored: &models::weights::Weights,
) -> anyhow::Result<(Vec<Weights>, Vec<Option<u64>>)> {
    let (mut weights, mut gpu_bytes) = (Vec::new(), Vec::new());
    for (setting, format) in FORMATS {
        let cpu = footprint(spec, stored, format, Device::Cpu)?;
        let gpu = footprint(spec, stored, format, Device::Cuda(0))?;
        weights.push(Weights {
            setting,
            cpu: cpu.as_ref().map(Kept::from),
            gpu: gpu.as_ref().map(Kept::from),
        });
        gpu_bytes.push(gpu.map(|footprint| footprint.loaded_bytes()));
    }
    Ok((weights, gpu_bytes))
}

/// Returns what the weights become on a device; `None` where it does not compute so.
fn footprint(
    spec: &DecoderSpec,
    stored: &models::weights::Weights,
    format: WeightFormat,
    device: Device,
) -> anyhow::Result<Option<WeightFootprint>> {
    match weight_footprint(spec, stored, format, device, 1) {
        Err(ModelError::PlainExperts { .. }) => Ok(None),
        footprint => Ok(Some(footprint?)),
    }
}

/// Returns what fits on each card, where the weights take so much of it by each of the first [`FORMATS`].
fn cards(spec: &DecoderSpec, engine: &EngineConfig, weight_bytes: &[Option<u64>]) -> Vec<Card> {
    let card = |gib: &u64| {
        let usable = ((gib << 30) as f64 * engine.gpu_memory_share) as u64;
        let tokens =
            |format: usize| longest_context(spec, engine, (*weight_bytes.get(format)?)?, usable);
        Card {
            gib: *gib,
            context_tokens_stored: tokens(0),
            context_tokens_int8: tokens(1),
            context_tokens_fp8: tokens(2),
        }
    };
    CARDS.iter().map(card).collect()
}

/// Returns the longest sequence that fits beside the weights; `None` where not one block does.
fn longest_context(
    spec: &DecoderSpec,
    engine: &EngineConfig,
    weight_bytes: u64,
    usable_bytes: u64,
) -> Option<usize> {
    let (num_tokens, num_seqs) = (engine.num_batched_tokens_max, engine.num_seqs_max);
    let fixed = weight_bytes.checked_add(activation_bytes(spec, num_tokens, num_seqs))?;
    let rest = usable_bytes.checked_sub(fixed)?;
    let block_bytes = kv_bytes_per_block(spec, engine.block_size, KvDType::F16);
    let fits = |num_blocks: usize| {
        let room = gpu_room_bytes(spec, num_tokens, num_seqs, num_blocks * engine.block_size);
        room + num_blocks as u64 * block_bytes <= rest
    };
    // Room grows with the context, so that what fits ends at one place.
    let num_blocks_max = spec.max_position_embeddings.div_ceil(engine.block_size);
    let (mut fitting, mut too_many) = (0, num_blocks_max + 1);
    while fitting + 1 < too_many {
        let middle = fitting.midpoint(too_many);
        if fits(middle) { fitting = middle } else { too_many = middle }
    }
    let tokens = (fitting * engine.block_size).min(spec.max_position_embeddings);
    (fitting > 0).then_some(tokens)
}

/// Returns the licence by the card that lies in the model's folder.
fn licence_beside(path: &Path) -> Option<String> {
    let folder: PathBuf = if path.is_dir() { path.into() } else { path.parent()?.into() };
    licence(&fs::read_to_string(folder.join("README.md")).ok()?)
}

/// Returns the licence that the head of a model card names; `license: other` has its name beside it.
fn licence(card: &str) -> Option<String> {
    let head = card.strip_prefix("---")?;
    let head = head.split("\n---").next()?;
    let field = |name: &str| {
        let mut lines = head.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        // It goes to a terminal, which would obey control characters.
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        let value = value.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    };
    match field("license") {
        Some(other) if other == "other" => Some(field("license_name").unwrap_or(other)),
        licence => licence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;

    #[test]
    fn the_card_names_the_licence() {
        let rows = [
            ("---\nlicense: apache-2.0\n---\n# A model", Some("apache-2.0")),
            ("---\nlicense: other\nlicense_name: mnpl\n---\n", Some("mnpl")),
            ("---\nlicense: \"mit\"\n---\n", Some("mit")),
            ("---\nlicense: \u{1b}[31mmit\u{7}\n---\n", Some("[31mmit")),
            ("---\ntags: [a]\n---\nlicense: mit\n", None),
            ("# A model\nlicense: mit\n", None),
        ];
        for (card, expected) in rows {
            assert_eq!(licence(card).as_deref(), expected, "{card}");
        }
    }

    /// Returns a folder of the embedded model with these files instead of its own, or beside them.
    fn demo_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let demo = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo"));
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            fs::copy(demo.join(name), folder.path().join(name)).unwrap();
        }
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn facts_of(path: &Path) -> anyhow::Result<Facts> {
        let config = Config::load(&RawConfig::default(), &Environment::default(), None).unwrap();
        facts(&config, Some(path), "a".to_owned())
    }

    #[test]
    fn says_whether_chats_are_answered() {
        let rows = [
            (&[][..], "chats         not answered: the model has no chat template"),
            (&[("chat_template.jinja", "{{ messages[0].content }}")], "chats         answered"),
            (
                &[("chat_template.jinja", "a\n{% for %}")],
                "chats         not answered: the model's chat template cannot be used: line 2: ",
            ),
        ];
        for (files, begin) in rows {
            let text = facts_of(demo_with(files).path()).unwrap().to_text();
            assert!(text.lines().any(|line| line.starts_with(begin)), "{begin} is not in\n{text}");
        }
    }

    #[test]
    fn a_tokenizer_of_another_model_is_refused_as_a_server_would() {
        let config = include_str!("../../../models/demo/config.json");
        let mut config: serde_json::Value = serde_json::from_str(config).unwrap();
        config["vocab_size"] = 1024.into();
        config["eos_token_id"] = 0.into();
        let folder = demo_with(&[("config.json", &config.to_string())]);
        let error = format!("{:#}", facts_of(folder.path()).unwrap_err());
        assert!(error.contains("they do not belong together"), "{error}");
    }

    #[test]
    fn weights_and_cards_are_told_for_fp8_and_for_each_kind_of_device() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/quantized/fp8-rows");
        let types = |kept: &Option<Kept>| kept.as_ref().map(|kept| kept.types.clone());
        let row = |source: Source<'_>, row: usize| {
            let (spec, stored) = (read_spec(source).unwrap(), open_weights(source).unwrap());
            let (weights, gpu_bytes) = weights(&spec, &stored).unwrap();
            let Weights { setting, cpu, gpu } = &weights[row];
            assert_eq!(gpu.is_some(), gpu_bytes[row].is_some());
            (*setting, types(cpu).unwrap_or_default(), types(gpu).unwrap_or_default())
        };
        let of = |setting: &'static str, cpu: &str, gpu: &str| (setting, cpu.into(), gpu.into());
        assert_eq!(row(Source::Demo, 0), of("--dtype bf16", "bf16", "bf16"));
        assert_eq!(row(Source::Demo, 2), of("--quantize fp8", "fp8", "fp8"));
        let golden = Source::Directory(golden.as_ref());
        assert_eq!(row(golden, 0), of("--dtype bf16", "bf16+f8_e4m3", "bf16+f8_e4m3"));
    }

    #[test]
    fn a_gpus_refusal_is_told_for_weights_and_cards() {
        let demo = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo"));
        let mut facts = facts_of(demo).unwrap();
        facts.weights[1].gpu = None;
        let text = facts.to_text();
        let cells = |name: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split("  ").map(str::trim).filter(|c| !c.is_empty()).map(str::to_owned).collect()
        };
        assert_eq!(cells("--quantize int8").last().unwrap(), "refused");
        assert_eq!(cells("24 GiB"), ["24 GiB", "2048 tokens", "refused", "2048 tokens"]);
    }

    #[test]
    fn a_larger_card_holds_a_longer_context_until_all_fits() {
        let environment = Environment::from_variables([]);
        let config = Config::load(&RawConfig::default(), &environment, None).unwrap();
        let spec = models::shape("qwen2.5-coder-32b").unwrap();
        let weights = 2 * 32_763_880_000;
        let context = |gib: u64| longest_context(&spec, &config.engine, weights, gib << 30);
        assert_eq!(context(16), None);
        assert_eq!(context(61), None);
        let (small, large) = (context(64).unwrap(), context(66).unwrap());
        assert!(0 < small && small < large && large < 32_768, "{small} {large}");
        assert_eq!(context(141), Some(32_768));
    }
}
