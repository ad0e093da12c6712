//! Several models: which spelling names them, and each table of `[[models]]` over `[engine]` and the defaults.
//!
//! A table is checked by the rules of `[model]` and `[engine]`; only the keys in its refusals are the table's own.

use std::collections::HashSet;

use crate::config::{
    Environment, ServedConfig, Violation,
    layers::entries,
    raw::{RawConfig, RawEngine, RawModel, RawServed},
    resolve,
};

/// The key of the tables.
pub(super) const MODELS: &str = "models";

/// Refuses settings that say twice what is loaded.
///
/// # Errors
/// The first key of `[model]` beside `[[models]]`, or tables of which there is none.
pub(super) fn check_spelling(typed: &RawConfig) -> Result<(), Violation> {
    let Some(models) = &typed.models else { return Ok(()) };
    if models.is_empty() {
        return Err(resolve::broken(MODELS, "one table a model", "none"));
    }
    let of_model = entries(typed).into_iter().find(|(key, _)| key.starts_with("model."));
    let Some((key, value)) = of_model else { return Ok(()) };
    let rule = "left out where `[[models]]` says what is loaded, or be a key of its tables";
    Err(Violation { key, rule: rule.to_owned(), got: value.to_string() })
}

/// Checks and completes the models, the first apart: those of `tables`, else the one of `model`. What a table leaves
/// out is as in `model` and `engine`.
///
/// # Errors
/// The first rule that is broken, by the key of the table that broke it.
pub(super) fn resolve(
    tables: Option<Vec<RawServed>>,
    model: RawModel,
    engine: RawEngine,
    environment: &Environment,
) -> Result<(ServedConfig, Vec<ServedConfig>), Violation> {
    let one = |model, engine| {
        Ok(ServedConfig {
            model: resolve::model(model, environment)?,
            engine: resolve::engine(engine)?,
        })
    };
    let mut names = HashSet::new();
    let Some(tables) = tables else {
        let served = one(model, engine)?;
        check_names(&served, &mut names)?;
        return Ok((served, Vec::new()));
    };
    let mut all = Vec::with_capacity(tables.len());
    for (index, table) in tables.into_iter().enumerate() {
        let own_engine = table.engine.clone();
        let served = one(table.model.or(model.clone()), table.engine.or(engine.clone()))
            .and_then(|served| check_names(&served, &mut names).map(|()| served))
            .map_err(|violation| in_table(violation, index, own_engine))?;
        all.push(served);
    }
    let first = all.remove(0);
    Ok((first, all))
}

/// A name leads to one model.
fn check_names(served: &ServedConfig, names: &mut HashSet<String>) -> Result<(), Violation> {
    let model = &served.model;
    let own = [("model.served_name", &model.served_name)];
    let all = own.into_iter().chain(model.aliases.iter().map(|alias| ("model.aliases", alias)));
    for (key, name) in all {
        if !names.insert(name.clone()) {
            let rule = "other than all names and aliases before it";
            return Err(resolve::broken(key, rule, format!("{name:?}")));
        }
    }
    Ok(())
}

/// Puts the names of a table's keys in the place of those of the sections. A key of `[engine]` that the table leaves out
/// stays.
fn in_table(violation: Violation, index: usize, engine: RawEngine) -> Violation {
    let table = format!("{MODELS}[{index}]");
    let said = entries(&RawConfig { engine, ..RawConfig::default() });
    let own = |key: &str| match key.split_once('.') {
        Some(("model", leaf)) => Some(format!("{table}.{leaf}")),
        Some((_, leaf)) if said.iter().any(|(said, _)| said == key) => {
            Some(format!("{table}.{leaf}"))
        }
        _ => None,
    };
    // Rules name other keys between backticks, so that each second part is one.
    let parts = violation.rule.split('`').enumerate();
    let parts = parts.map(|(index, part)| {
        let key = own(part).filter(|_| index % 2 == 1);
        key.unwrap_or_else(|| part.to_owned())
    });
    let rule = parts.collect::<Vec<_>>().join("`");
    Violation { key: own(&violation.key).unwrap_or(violation.key), rule, got: violation.got }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, DeviceChoice, ModelSource, tests::load};

    const TWO: &str = "[engine]\nmax_num_seqs = 8\n\
        [[models]]\nsource = \"org/large\"\naliases = [\"codestral-latest\"]\ndevice = \"cuda:1\"\n\
        [[models]]\nserved_name = \"small\"\nmax_num_seqs = 4\nkv_cache_memory = \"1GiB\"\n";

    /// Reads `text` as a file under these options and variables.
    fn load_below(
        options: &RawConfig,
        variables: &[(&str, &str)],
        text: &str,
    ) -> Result<Config, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let name = format!("lacuna-models-{}-{}", std::process::id(), text.len());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, text).unwrap();
        let config = Config::load(options, &Environment::from_variables(variables), Some(&file));
        std::fs::remove_file(&file).unwrap();
        config.map_err(|error| error.to_string().replace(file.to_str().unwrap(), "FILE"))
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
    }

    #[test]
    fn what_is_printed_reads_back_and_one_table_is_as_good_as_none() {
        let one = "[[models]]\nserved_name = \"a\"\nthreads = 3\naliases = [\"b\", \"c\"]\n";
        for text in [TWO, one] {
            let config = load(text).unwrap();
            let printed = config.to_toml().unwrap();
            assert_eq!(printed.contains("[[models]]"), text == TWO, "{printed}");
            assert_eq!(printed.contains("[model]"), text == one, "{printed}");
            assert_eq!(load(&printed).unwrap(), config, "{printed}");
        }
        let sections =
            "[model]\nserved_name = \"a\"\naliases = [\"b\", \"c\"]\n[engine]\nthreads = 3";
        assert_eq!(load(one).unwrap(), load(sections).unwrap());
    }

    #[test]
    fn the_examples_tables_are_settings() {
        let text = include_str!("../../lacuna.example.toml");
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
                "[[models]]\nmax_num_seq = 1",
                "FILE:2:1: unknown key `models[0].max_num_seq`; the nearest is `models[0].max_num_seqs`",
            ),
            (
                "[models]\n",
                "FILE:1:1: `models`: several models are tables, each under `[[models]]`",
            ),
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
    fn refusals_of_values_name_the_tables_key() {
        let rows = [
            (
                "[[models]]\ndtype = \"int4\"",
                "`models[0].dtype` must be one of bf16, f32, got int4 (at FILE:2:1)",
            ),
            (
                "[[models]]\nserved_name = \"a\"\n[[models]]\ndtype = \"f32\"\nquantize = \"int8\"",
                "`models[1].quantize` must be none where `models[1].dtype` is f32, got int8 (at FILE:5:1)",
            ),
            (
                "[engine]\nmax_num_batched_tokens = 16\n[[models]]\nmax_num_seqs = 17",
                "`engine.max_num_batched_tokens` must be at least `models[0].max_num_seqs`, which is 17, got 16 (at FILE:2:1)",
            ),
            (
                "[[models]]\n[[models]]\ndevice = \"cpu\"",
                "`models[1].served_name` must be other than all names and aliases before it, got \"demo\" (at FILE:2:1)",
            ),
            (
                "[[models]]\n[[models]]\nserved_name = \"b\"\naliases = [\"a\", \"demo\"]",
                "`models[1].aliases` must be other than all names and aliases before it, got \"demo\" (at FILE:4:1)",
            ),
            (
                "[model]\naliases = [\"\"]",
                "`model.aliases` must be 1 to 256 printable bytes, got \"\" (at FILE:2:1)",
            ),
            (
                "[model]\nthreads = 1\n[[models]]",
                "FILE:2:1: unknown key `model.threads`; the nearest is `engine.threads`",
            ),
            (
                "[[models]]\n[model]\ndevice = \"cpu\"",
                "`model.device` must be left out where `[[models]]` says what is loaded, or be a key of its tables, got \"cpu\" (at FILE:3:1)",
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
}
