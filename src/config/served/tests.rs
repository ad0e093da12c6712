//! Several models in a file: what their tables say, how they are printed, and each refusal.

use super::*;
use crate::config::{Config, DeviceChoice, ModelSource, tests::load};

const TWO: &str = "[engine]\nmax_num_seqs = 8\n\
    [[models]]\nsource = \"org/large\"\naliases = [\"codestral-latest\"]\ndevice = \"cuda:1\"\n\
    [[models]]\nsource = \"demo\"\nserved_name = \"small\"\nmax_num_seqs = 4\nkv_cache_memory = \"1GiB\"\n";

/// Reads `text` as a file under these options and variables.
fn load_below(
    options: &RawConfig,
    variables: &[(&str, &str)],
    text: &str,
) -> Result<Config, String> {
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    // A file of its own for each: tests run beside each other.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let config = Config::load(options, &Environment::from_variables(variables), Some(file.path()));
    config.map_err(|error| error.to_string().replace(file.path().to_str().unwrap(), "FILE"))
}

#[track_caller]
fn is_refused_with(text: &str, message: &str) {
    assert_eq!(load_below(&RawConfig::default(), &[], text).unwrap_err(), message);
}

#[test]
fn a_table_goes_before_the_engine_and_the_defaults() {
    let [large, small]: [Config; 2] = load(TWO).unwrap().each_model().try_into().unwrap();
    assert_eq!(large.model.served_name, "org/large");
    assert_eq!(large.model.aliases, ["codestral-latest"]);
    assert_eq!(large.model.device, DeviceChoice::Cuda(1));
    assert_eq!((large.engine.num_seqs_max, large.engine.kv_cache_bytes), (8, None));
    assert_eq!((&small.model.source, &*small.model.served_name), (&ModelSource::Demo, "small"));
    assert_eq!((small.engine.num_seqs_max, small.engine.kv_cache_bytes), (4, Some(1 << 30)));
    assert_eq!(small.model.device, DeviceChoice::Auto);
    assert_eq!(large.each_model(), std::slice::from_ref(&large));
    let keys = [large.model_key("dtype"), small.model_key("dtype")];
    assert_eq!(keys, ["models[0].dtype", "models[1].dtype"]);
    assert_eq!(load("").unwrap().model_key("dtype"), "model.dtype");
}

#[test]
fn what_is_printed_reads_back_and_one_table_is_as_good_as_none() {
    let one = "[[models]]\nsource = \"demo\"\nserved_name = \"a\"\nthreads = 3\naliases = [\"b\", \"c\"]\n";
    for text in [TWO, one] {
        let config = load(text).unwrap();
        let printed = config.to_toml().unwrap();
        assert!(printed.contains("[[models]]") && !printed.contains("[model]"), "{printed}");
        assert_eq!(load(&printed).unwrap(), config, "{printed}");
    }
    let sections = "[model]\nserved_name = \"a\"\naliases = [\"b\", \"c\"]\n[engine]\nthreads = 3";
    let (one, sections) = (load(one).unwrap(), load(sections).unwrap());
    assert_eq!((&one.model, &one.engine), (&sections.model, &sections.engine));
    assert!(one.more_models.is_empty());
}

#[test]
fn the_examples_tables_are_settings() {
    let text = include_str!("../../../lacuna.example.toml");
    let tables = text.lines().skip_while(|line| *line != "# [[models]]");
    let tables = tables.map_while(|line| line.strip_prefix('#'));
    let config = load(&tables.collect::<Vec<_>>().join("\n")).unwrap();
    assert_eq!(config.model.aliases.len(), 2);
    assert_eq!(config.more_models.len(), 1);
}

#[test]
fn what_is_no_table_of_settings_is_refused_with_its_place() {
    let rows = [
        (
            "[[models]]\ndtype = 4",
            "FILE:2:9: `models[0].dtype`: invalid type: integer `4`, expected a string",
        ),
        (
            "[[models]]\n[[models]]\nthreads = []",
            "FILE:3:11: `models[1].threads`: an integer or a string",
        ),
        (
            "[[models]]\ndevise = \"cpu\"",
            "FILE:2:1: unknown key `models[0].devise`; the nearest is `models[0].device`",
        ),
        (
            "[[models]]\nmodel = \"demo\"",
            "FILE:2:1: unknown key `models[0].model`; the nearest is `models[0].source`",
        ),
        (
            "[[models]]\nsource = \"demo\"\n[[models]]\nsource = \"demo\"\nserved_nam = \"b\"",
            "FILE:5:1: unknown key `models[1].served_nam`; the nearest is `models[1].served_name`",
        ),
        (
            "[[modles]]\nsource = \"demo\"",
            "FILE:1:3: unknown key `modles`; the nearest is `models`",
        ),
        (
            "[[models]]\nmax_num_seq = 1",
            "FILE:2:1: unknown key `models[0].max_num_seq`; the nearest is `models[0].max_num_seqs`",
        ),
        (
            "[[models]]\nport = 1",
            "FILE:2:1: unknown key `models[0].port`; the nearest is `server.port`",
        ),
        (
            "[models]\nsource = \"demo\"",
            "FILE:1:1: `models`: several models are tables, each under `[[models]]`",
        ),
        (
            "[model]\nadapters = \"review=./a\"",
            "FILE:2:12: `model.adapters`: a list such as [\"review=./adapters/review\"], or a table such as { review = \"./adapters/review\" }",
        ),
        (
            "[[models]]\nadapters = { \"a=b\" = \"./a\" }",
            "FILE:2:12: `models[0].adapters`: a name has no `=`, got \"a=b\"",
        ),
        ("[models]\n", "FILE:1:1: `models`: several models are tables, each under `[[models]]`"),
        (
            "[[model]]\nsource = \"demo\"\n",
            "FILE:1:1: `model`: several models are tables, each under `[[models]]`",
        ),
        (
            "models = [\"demo\"]\n",
            "FILE:1:11: `models`: several models are tables, each under `[[models]]`",
        ),
        ("models = []\n", "`models` must be one table a model, got none (at FILE:1:1)"),
    ];
    for (text, message) in rows {
        is_refused_with(text, message);
    }
}

#[test]
fn adapters_are_a_list_or_a_table() {
    let list = load("[model]\nadapters = [\"a=./a\", \"b=org/b\"]").unwrap();
    let table = load("[model.adapters]\nb = \"org/b\"\na = \"./a\"").unwrap();
    let inline = load("[[models]]\nsource = \"demo\"\nadapters = { a = \"./a\", b = \"org/b\" }");
    assert_eq!(list.model.adapters.len(), 2);
    assert_eq!(list.model, table.model);
    assert_eq!(list.model, inline.unwrap().model);
}

#[test]
fn messages_name_the_tables_keys_and_leave_other_names_alone() {
    let message =
        "raise `engine.kv_cache_memory` or lower `model.dtype`; `model.norm.weight`, model.dtype";
    let small = &load(TWO).unwrap().each_model()[1];
    let expected = "raise `models[1].kv_cache_memory` or lower `models[1].dtype`; `model.norm.weight`, model.dtype";
    assert_eq!(small.in_own_words(message), expected);
    assert_eq!(load("").unwrap().in_own_words(message), message);
}

#[test]
fn refusals_of_values_name_the_tables_key() {
    let rows = [
        (
            "[[models]]\nsource = \"demo\"\ndtype = \"int4\"",
            "`models[0].dtype` must be one of bf16, f32, got int4 (at FILE:3:1)",
        ),
        (
            "[[models]]\nsource = \"demo\"\n[[models]]\nsource = \"a/b\"\ndtype = \"f32\"\nquantize = \"int8\"",
            "`models[1].quantize` must be none where `models[1].dtype` is f32, got int8 (at FILE:6:1)",
        ),
        (
            "[engine]\nmax_num_batched_tokens = 16\n[[models]]\nsource = \"demo\"\nmax_num_seqs = 17",
            "`engine.max_num_batched_tokens` must be at least `models[0].max_num_seqs`, which is 17, got 16 (at FILE:2:1)",
        ),
        (
            "[[models]]\nsource = \"demo\"\n[[models]]\nsource = \"demo\"",
            "`models[1].served_name` must be a name of its own, other than those of `models[0].served_name`, got \"demo\" (at FILE:3:1)",
        ),
        (
            "[[models]]\nsource = \"demo\"\n[[models]]\nsource = \"a/b\"\naliases = [\"a\", \"demo\"]",
            "`models[1].aliases` must be a name of its own, other than those of `models[0].served_name`, got \"demo\" (at FILE:5:1)",
        ),
        (
            "[model]\naliases = [\"a\"]\nadapters = [\"a=./a\"]",
            "`model.adapters` must be a name of its own, other than those of `model.aliases`, got \"a\" (at FILE:3:1)",
        ),
        (
            "[model]\nadapters = [\"=./a\"]",
            "`model.adapters` must be names of 1 to 256 printable bytes, no blank first or last, and where the adapters are, got \"\" (at FILE:2:1)",
        ),
        (
            "[model]\nadapters = [\"./a\"]",
            "`model.adapters` must be names and where the adapters are, such as `review=./adapters/review` or `review=org/name`, got \"./a\" (at FILE:2:1)",
        ),
        (
            "[[models]]\nsource = \"demo\"\nadapters = [\"a=demo\"]",
            "`models[0].adapters` must be names and where the adapters are, such as `review=./adapters/review` or `review=org/name`, got \"a=demo\" (at FILE:3:1)",
        ),
        (
            "[model]\naliases = [\"\"]",
            "`model.aliases` must be 1 to 256 printable bytes, no blank first or last, got \"\" (at FILE:2:1)",
        ),
        (
            "[model]\nthreads = 1\n[[models]]",
            "FILE:2:1: unknown key `model.threads`; the nearest is `engine.threads`",
        ),
        (
            "[[models]]\n[model]\ndevice = \"cpu\"",
            "`model.device` must be left out where `[[models]]` says what is loaded, or be a key of its tables, got \"cpu\" (at FILE:3:1)",
        ),
        (
            "[[models]]\nsource = \"demo\"\n[[models]]\nserved_name = \"small\"",
            "`models[1].source` must be said in each table of `[[models]]`; demo is the embedded model, got nothing (at FILE:3:1)",
        ),
    ];
    for (text, message) in rows {
        is_refused_with(text, message);
    }
}

#[test]
fn a_named_model_goes_before_the_files_and_all_else_of_one_model_is_refused() {
    let mut options = RawConfig::default();
    options.model.source = Some("demo".to_owned());
    assert!(load_below(&options, &[], TWO).unwrap().more_models.is_empty());
    let source = load_below(&RawConfig::default(), &[("LACUNA_MODEL", "demo")], TWO);
    assert!(source.unwrap_err().ends_with("got \"demo\" (from LACUNA_MODEL)"));
    options.model = RawModel { quantize: Some("int8".to_owned()), ..RawModel::default() };
    let quantize = load_below(&options, &[], TWO);
    assert!(quantize.unwrap_err().ends_with("got \"int8\" (from --quantize)"));
}
