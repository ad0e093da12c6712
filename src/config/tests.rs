//! Tests of the layers together: defaults, precedence, refusals and the way back.

use std::collections::BTreeSet;

use super::{
    layers::{defaults, entries, option_of},
    scalar::Scalar,
    *,
};

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::from_variables(
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

/// Resolves the text of a file over the defaults.
pub(super) fn load(text: &str) -> Result<Config, ConfigError> {
    let known: Vec<String> = entries(&defaults()?).into_iter().map(|(key, _)| key).collect();
    let raw = file::parse(text, "lacuna.toml", Some(&known))?.raw;
    Config::load(&raw, &environment(&[("HOME", "/home/ada")]), None)
}

/// Serialises a default whose every field is set, so that a field the example lacks cannot hide behind `None`.
fn all_keys() -> BTreeSet<String> {
    let config = load("").unwrap();
    entries(&RawConfig::from(&config)).into_iter().map(|(key, _)| key).collect()
}

#[test]
fn the_example_lists_every_setting() {
    let example: BTreeSet<String> =
        entries(&defaults().unwrap()).into_iter().map(|(key, _)| key).collect();
    assert_eq!(example, all_keys());
}

#[test]
fn the_example_names_every_option() {
    let text = include_str!("../../lacuna.example.toml");
    for key in all_keys() {
        let option = option_of(&key).unwrap();
        let is_named = text.lines().any(|line| line.trim_end().ends_with(&format!("--{option}")));
        assert!(is_named, "`{key}` has no comment that ends in `--{option}`");
    }
}

#[test]
fn the_last_part_of_a_key_is_used_once() {
    let keys = all_keys();
    let leaves: BTreeSet<&str> = keys.iter().filter_map(|key| key.rsplit('.').next()).collect();
    assert_eq!(leaves.len(), keys.len());
}

#[test]
fn the_defaults_are_these() {
    let config = load("").unwrap();
    assert_eq!(config.server.host.to_string(), "127.0.0.1");
    assert_eq!(config.server.port, 5052);
    assert_eq!(config.server.cors_allowed_origins, Vec::<String>::new());
    assert_eq!(config.model.source, ModelSource::Demo);
    assert_eq!(config.model.served_name, "demo");
    assert_eq!(config.hub.cache, Some("/home/ada/.cache/huggingface/hub".into()));
    assert_eq!(config.engine.kv_cache_bytes, None);
    assert_eq!(config.log.filter, "info");
}

#[test]
fn a_file_is_served_under_its_stem() {
    let rows = [
        ("/srv/coder-7b-q4_k_m.gguf", "coder-7b-q4_k_m"),
        ("weights/coder.gguf", "coder"),
        ("./qwen2.5", "qwen2.5"),
        ("Qwen/Qwen2.5-Coder-7B-GGUF", "Qwen/Qwen2.5-Coder-7B-GGUF"),
    ];
    for (source, name) in rows {
        let config = load(&format!("[model]\nsource = {source:?}")).unwrap();
        assert_eq!(config.model.served_name, name);
    }
}

#[test]
fn options_win_over_variables_over_the_file_over_the_defaults() {
    let folder = std::env::temp_dir().join(format!("lacuna-layers-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("lacuna.toml");
    std::fs::write(
        &file,
        "[server]\nport = 1\nmax_concurrent_requests = 1\n[engine]\nblock_size = 32\n",
    )
    .unwrap();
    let variables = environment(&[("LACUNA_PORT", "2"), ("LACUNA_MAX_CONCURRENT_REQUESTS", "2")]);
    let mut options = RawConfig::default();
    options.server.port = Some(3);
    let config = Config::load(&options, &variables, Some(&file)).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(config.server.port, 3);
    assert_eq!(config.server.concurrent_requests_max, 2);
    assert_eq!(config.engine.block_size, 32);
    assert_eq!(config.completion.num_stops_limit, 32);
}

#[test]
fn what_is_printed_reads_back() {
    let files = [
        "",
        "[model]\nsource = \"org/name\"\ndevice = \"cuda:3\"\ndtype = \"f32\"\nfamily = \"qwen\"\n",
        "[model]\nsource = \"org/name@refs/pr/1\"\nserved_name = \"coder\"\nmax_context_tokens = 4096\n",
        "[model]\nsource = \"./demo\"\n[hub]\ncache = \"~/models\"\noffline = \"on\"\nendpoint = \"http://mirror:8080\"\n",
        "[model]\nsource = \"org/name@v1:Q4_K_M\"\n",
        "[model]\nsource = \"/srv/models/qwen\"\n",
        "[engine]\nkv_cache_memory = \"1536MiB\"\nthreads = 7\nprefix_cache = false\n",
        "[engine]\nkv_cache_memory = 1073741825\n",
        "[model]\nsource = \"weights/coder-q8_0.gguf\"\nquantize = \"int8\"\n",
        "[engine]\ncpu_simd = \"avx512\"\n",
        "[engine]\ncpu_simd = \"avx2\"\n",
        "[engine]\ncpu_simd = \"scalar\"\n",
        "[completion]\nline_start_layout = \"off\"\ntimeout = \"1500ms\"\nsuffix_share = 0\ncontext_share = 0.99\n",
        "[server]\nhost = \"::1\"\ncors_allowed_origins = [\"*\", \"https://a.example:8443\"]\ndrain_timeout = \"0s\"\n",
        "[log]\nformat = \"json\"\nfilter = \"warn,lacuna::engine=trace\"\n",
    ];
    for text in files {
        let config = load(text).unwrap();
        let printed = config.to_toml().unwrap();
        assert_eq!(load(&printed).unwrap(), config, "{printed}");
    }
}

#[track_caller]
fn is_refused_with(text: &str, message: &str) {
    let ConfigError::Value { violation, .. } = load(text).unwrap_err() else { panic!("{text}") };
    assert_eq!(violation.to_string(), message);
}

#[test]
fn refusals_of_what_weights_become_name_the_choices() {
    let rows = [
        (
            "[model]\nquantize = \"int4\"",
            "`model.quantize` must be one of none, int8, fp8, got int4",
        ),
        (
            "[model]\nquantize = \"int8\"\ndtype = \"f32\"",
            "`model.quantize` must be none where `model.dtype` is f32, got int8",
        ),
        (
            "[engine]\ncpu_simd = \"sse2\"",
            "`engine.cpu_simd` must be one of auto, avx512-bf16, avx512, avx2, scalar, got sse2",
        ),
    ];
    for (text, message) in rows {
        is_refused_with(text, message);
    }
}

#[test]
fn refusals_name_the_value_and_the_rule() {
    let rows = [
        ("[engine]\nblock_size = 3", "`engine.block_size` must be between 8 and 256, got 3"),
        ("[server]\nport = 70000", "`server.port` must be between 0 and 65535, got 70000"),
        ("[server]\nport = -1", "`server.port` must be between 0 and 65535, got -1"),
        (
            "[server]\nhost = \"localhost\"",
            "`server.host` must be an IP address such as 127.0.0.1 or 0.0.0.0, got localhost",
        ),
        (
            "[server]\nmax_body_size = \"8 potatoes\"",
            "`server.max_body_size` must be a size between 1KiB and 1GiB, got 8 potatoes",
        ),
        (
            "[server]\ndrain_timeout = \"30\"",
            "`server.drain_timeout` must be a time between 0ms and 1h, got 30",
        ),
        (
            "[server]\ncors_allowed_origins = [\"a.example\"]",
            "`server.cors_allowed_origins` must be a list of origins such as https://gitlab.example.com, or *, got a.example",
        ),
        (
            "[model]\ndevice = \"cuda:\"",
            "`model.device` must be auto, cpu, cuda:N or emulated, got cuda:",
        ),
        ("[model]\ndtype = \"int4\"", "`model.dtype` must be one of bf16, f32, got int4"),
        (
            "[model]\nsource = \"qwen\"",
            "`model.source` must be demo, an existing folder, a GGUF file, or org/name with an optional @revision and :FILE, got qwen",
        ),
        (
            "[model]\nsource = \"org/..\"",
            "`model.source` must be demo, an existing folder, a GGUF file, or org/name with an optional @revision and :FILE, got org/..",
        ),
        (
            "[hub]\nendpoint = \"mirror.example\"",
            "`hub.endpoint` must be auto, or an http or https address such as https://huggingface.co, got mirror.example",
        ),
        (
            "[model]\nmax_context_tokens = \"many\"",
            "`model.max_context_tokens` must be auto, or between 64 and 16777216, got many",
        ),
        (
            "[engine]\nmax_num_seqs = 64\nmax_num_batched_tokens = 32",
            "`engine.max_num_batched_tokens` must be at least `engine.max_num_seqs`, which is 64, got 32",
        ),
        (
            "[completion]\nmax_tokens_limit = 16",
            "`completion.max_tokens_default` must be between 1 and 16, got 64",
        ),
        (
            "[completion]\nsuffix_share = 0.75",
            "`completion.context_share` must be below 1 together with `completion.suffix_share`, which is 0.75, got 0.3",
        ),
        (
            "[completion]\nsuffix_share = nan",
            "`completion.suffix_share` must be at least 0 and below 1, got NaN",
        ),
        (
            "[log]\nfilter = \"verbose\"",
            "`log.filter` must be off, error, warn, info, debug or trace, or a list of module=level, got verbose",
        ),
    ];
    for (text, message) in rows {
        is_refused_with(text, message);
    }
}

#[test]
fn a_file_is_refused_with_the_place() {
    let rows = [
        (
            "[server]\n\nprot = 1",
            "lacuna.toml:3:1: unknown key `server.prot`; the nearest is `server.port`",
        ),
        ("port = 1", "lacuna.toml:1:1: unknown key `port`; the nearest is `server.port`"),
        ("[sever]\nport = 1", "lacuna.toml:1:2: unknown key `sever`; the nearest is `server`"),
        (
            "[model]\nmodel = \"demo\"\n[engine]\nport = 1",
            "lacuna.toml:2:1: unknown key `model.model`; the nearest is `model.source`",
        ),
        (
            "[engine]\nport = 1",
            "lacuna.toml:2:1: unknown key `engine.port`; the nearest is `server.port`",
        ),
        (
            "[server]\nport = \"x\"",
            "lacuna.toml:2:8: `server.port`: invalid type: string \"x\", expected an integer",
        ),
        ("[engine]\nthreads = []", "lacuna.toml:2:11: `engine.threads`: an integer or a string"),
    ];
    for (text, message) in rows {
        assert_eq!(load(text).unwrap_err().to_string(), message);
    }
    let error = load("[server\n").unwrap_err().to_string();
    assert!(error.starts_with("lacuna.toml:1:"), "{error}");
}

#[test]
fn a_refusal_says_who_said_so() {
    let mut options = RawConfig::default();
    options.engine.threads = Some(Scalar::Integer(0));
    let error = Config::load(&options, &environment(&[]), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`engine.threads` must be auto, or between 1 and 1024, got 0 (from --threads)"
    );
    let variables = environment(&[("LACUNA_REQUEST_TIMEOUT", "0s")]);
    let error = Config::load(&RawConfig::default(), &variables, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`completion.timeout` must be a time between 100ms and 24h, got 0s (from LACUNA_REQUEST_TIMEOUT)"
    );
}

#[test]
fn the_operators_page_lists_every_setting() {
    let page = include_str!("../../docs/operations.md");
    for (key, default) in entries(&defaults().unwrap()) {
        let option = option_of(&key).unwrap();
        let row = format!("| `{key}` | `--{option}` | `{}` | `{default}` |", variable(&option));
        assert!(page.lines().any(|line| line == row), "docs/operations.md lacks\n{row}");
    }
}
