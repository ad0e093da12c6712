//! How the model is asked to fill a gap: what the settings say, over what its family has.

use std::{borrow::Cow, path::Path};

use anyhow::bail;
use tracing::{info, warn};

use crate::{
    config::{Config, FamilyChoice, ModelSource, OrderChoice, TokenChoice},
    prompt::{
        Family, Fim, FimTemplate,
        family::{self, Evidence, FAMILIES, Layout, Order, Recognised, Training},
    },
    tokenizer::Tokenizer,
};

/// The family of the embedded model: its tokenizer has Qwen's sentinels, but it was not trained on all that they mean.
const DEMO_FAMILY: &str = "lacuna-demo";

/// What a form is called that settings alone make.
const CUSTOM: &str = "custom";

/// Returns how the model is asked to fill a gap; `None` where it was not trained to, as far as is known.
pub(super) fn template(
    config: &Config,
    architecture: &str,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Option<FimTemplate>> {
    let family = choose(config, architecture, tokenizer)?;
    template_of(config, family, tokenizer)
}

/// Returns how a model of this family is asked to fill a gap; as [`template`].
pub(super) fn template_of(
    config: &Config,
    family: Option<&'static Family>,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Option<FimTemplate>> {
    if let Some(family) = family
        && let Some(fim) = family.fim()
    {
        return resolve(config, family.name, fim, tokenizer).map(Some);
    }
    if let Some(fim) = custom(config)? {
        return resolve(config, CUSTOM, &fim, tokenizer).map(Some);
    }
    if let Some(Family { name, training: Training::Without(reason), .. }) = family {
        warn!(
            model = config.model.served_name,
            family = name,
            reason,
            "not trained to fill gaps: only plain continuation will work"
        );
    }
    Ok(None)
}

/// Returns the family that was named, else the one that the model proves to be of.
pub(super) fn choose(
    config: &Config,
    architecture: &str,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Option<&'static Family>> {
    let model = &config.model;
    match &model.family {
        FamilyChoice::None => return Ok(None),
        FamilyChoice::Named(name) => return by_setting(config, name).map(Some),
        FamilyChoice::Auto if model.source == ModelSource::Demo => {
            return Ok(family::by_name(DEMO_FAMILY));
        }
        FamilyChoice::Auto => {}
    }
    let has_token = |token: &str| tokenizer.added_token_id(token).is_some();
    let recognised = family::recognise(&Evidence {
        has_token: &has_token,
        architecture,
        num_ids: tokenizer.num_ids(),
        name: &name(&model.source),
    });
    let reason = recognised.reason();
    match recognised {
        Recognised::BySigns(family) | Recognised::ByName(family) => {
            info!(model = model.served_name, family = family.name, reason, "recognised");
        }
        Recognised::Assumed(family) => warn!(
            model = model.served_name,
            family = family.name,
            reason,
            "assumed, the model may be of another: name it with model.family, or none to fill no gaps"
        ),
        Recognised::Unknown(suggested) if model.fim.prefix.is_none() => {
            let suggested = suggested.map_or("none", |family| family.name);
            warn!(
                model = model.served_name,
                suggested_by_name = suggested,
                reason,
                "no known family: only plain continuation will work, see model.family and model.fim_prefix"
            );
        }
        Recognised::Unknown(_) => {}
    }
    Ok(recognised.family())
}

/// Refuses a family that nobody knows.
pub(super) fn check_family(config: &Config) -> anyhow::Result<()> {
    match &config.model.family {
        FamilyChoice::Named(name) => by_setting(config, name).map(|_| ()),
        FamilyChoice::Auto | FamilyChoice::None => Ok(()),
    }
}

/// Returns the family of a setting: by its name, or by one that editors use.
fn by_setting(config: &Config, name: &str) -> anyhow::Result<&'static Family> {
    if let Some(family) = family::by_name(name) {
        return Ok(family);
    }
    let Some(family) = family::by_alias(name) else {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        let (key, names) = (config.model_key("family"), names.join(", "));
        bail!("`{key}` must be auto, none or one of {names}, got {name:?}");
    };
    info!(named = name, family = family.name, "the family of that name");
    Ok(family)
}

/// Returns the name that a model goes by where it comes from.
fn name(source: &ModelSource) -> String {
    match source {
        ModelSource::None => "none".to_owned(),
        ModelSource::Demo => "demo".to_owned(),
        ModelSource::Path(path) => name_of_path(path),
        ModelSource::Hub(model) => model.repository.clone(),
    }
}

/// Returns the name of a folder or file; in the hub's cache (`models--org--name/snapshots/COMMIT`), where the folder's
/// own is a hash, with the repository's before it.
fn name_of_path(path: &Path) -> String {
    let parts: Vec<Cow<'_, str>> = path.iter().map(|part| part.to_string_lossy()).collect();
    let last = parts.last().map(ToString::to_string).unwrap_or_default();
    let mut pairs = parts.windows(2).filter(|pair| pair[1] == "snapshots");
    match pairs.find_map(|pair| pair[0].strip_prefix("models--")) {
        Some(repository) => format!("{}/{last}", repository.replace("--", "/")),
        None => last,
    }
}

/// Returns the form that settings alone make, if they name sentinels.
fn custom(config: &Config) -> anyhow::Result<Option<Fim<'_>>> {
    let said = &config.model.fim;
    let (prefix, suffix) = match (&said.prefix, &said.suffix) {
        (None, None) => return Ok(None),
        (Some(prefix), Some(suffix)) => (prefix, suffix),
        _ => {
            let keys = ["fim_prefix", "fim_suffix"].map(|key| config.model_key(key));
            bail!("`{}` and `{}` go together where no family is known", keys[0], keys[1])
        }
    };
    Ok(Some(Fim {
        bos: None,
        prefix,
        suffix,
        middle: None,
        order: Order::Psm,
        layout: Layout::Plain,
        suffix_tokens_max: None,
        files: None,
        stop_tokens: &[],
        stop_texts: &[],
    }))
}

/// Looks up the form's tokens, with what the settings say in their places.
fn resolve(
    config: &Config,
    name: &str,
    fim: &Fim<'_>,
    tokenizer: &Tokenizer,
) -> anyhow::Result<FimTemplate> {
    check_tokens(config, tokenizer)?;
    let said = &config.model.fim;
    let token_id = |token: &str| tokenizer.added_token_id(token);
    let prefix = said.prefix.as_deref().unwrap_or(fim.prefix);
    let suffix = said.suffix.as_deref().unwrap_or(fim.suffix);
    let middle = chosen(&said.middle, fim.middle);
    let (tokens, texts): (Vec<&str>, Vec<&str>) =
        said.stops.iter().map(String::as_str).partition(|stop| token_id(stop).is_some());
    // A sentinel in an answer is its end, whoever named it.
    let sentinels = [Some(prefix), Some(suffix), middle].into_iter().flatten();
    let stop_tokens: Vec<&str> =
        fim.stop_tokens.iter().copied().chain(sentinels).chain(tokens).collect();
    let stop_texts: Vec<&str> = fim.stop_texts.iter().copied().chain(texts).collect();
    let order = match said.order {
        OrderChoice::Auto => fim.order,
        OrderChoice::Psm => Order::Psm,
        OrderChoice::Spm => Order::Spm,
    };
    let fim = Fim {
        bos: chosen(&said.bos, fim.bos),
        prefix,
        suffix,
        middle,
        order,
        stop_tokens: &stop_tokens,
        stop_texts: &stop_texts,
        ..*fim
    };
    let template = FimTemplate::resolve(name, &fim, token_id)?;
    let model = &config.model.served_name;
    info!(model, form = name, order = order.as_label(), "fill-in-the-middle");
    Ok(match config.completion.line_start_layout {
        None => template,
        Some(true) => template.with_layout(Layout::LineStart),
        Some(false) => template.with_layout(Layout::Plain),
    })
}

/// Refuses tokens of the settings that the tokenizer does not have: in the form they would be its family's fault.
fn check_tokens(config: &Config, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    let said = &config.model.fim;
    let tokens = [
        ("fim_prefix", said.prefix.as_deref()),
        ("fim_suffix", said.suffix.as_deref()),
        ("fim_middle", chosen(&said.middle, None)),
        ("fim_bos", chosen(&said.bos, None)),
    ];
    for (key, token) in tokens {
        if let Some(token) = token.filter(|token| tokenizer.added_token_id(token).is_none()) {
            let key = config.model_key(key);
            bail!("`{key}` must be one control token of the model's tokenizer, got {token:?}");
        }
    }
    Ok(())
}

fn chosen<'a>(choice: &'a TokenChoice, of_family: Option<&'a str>) -> Option<&'a str> {
    match choice {
        TokenChoice::Auto => of_family,
        TokenChoice::None => None,
        TokenChoice::Token(token) => Some(token),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::*;
    use crate::config::{Environment, RawConfig};

    const MELLUM: &[u8] = include_bytes!("../../tests/golden/tokenizers/mellum/tokenizer.json");
    const SEED: &[u8] = include_bytes!("../../tests/golden/tokenizers/seed-coder/tokenizer.json");
    const LLAMA: &str = "LlamaForCausalLM";

    fn of(
        json: &[u8],
        architecture: &str,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Option<FimTemplate>> {
        let mut raw = RawConfig::default();
        raw.model.source = Some("org/model".to_owned());
        for (key, value) in settings {
            let value = Some((*value).to_owned());
            match *key {
                "source" => raw.model.source = value,
                "family" => raw.model.family = value,
                "prefix" => raw.model.fim_prefix = value,
                "suffix" => raw.model.fim_suffix = value,
                "middle" => raw.model.fim_middle = value,
                "order" => raw.model.fim_order = value,
                "bos" => raw.model.fim_bos = value,
                "stops" => raw.model.fim_stops = value.map(|stop| vec![stop]),
                _ => unreachable!("{key}"),
            }
        }
        let config = Config::load(&raw, &Environment::default(), None)?;
        template(&config, architecture, &Tokenizer::from_json(json).unwrap())
    }

    fn error(json: &[u8], settings: &[(&str, &str)]) -> String {
        of(json, LLAMA, settings).unwrap_err().to_string()
    }

    #[test]
    fn a_family_is_recognised_or_named() {
        let seed = of(SEED, LLAMA, &[]).unwrap().unwrap();
        assert_eq!(of(SEED, LLAMA, &[("family", "seed-coder")]).unwrap(), Some(seed));
        // The vocabulary is far smaller than Mellum's, so that its sentinels prove nothing.
        assert_eq!(of(MELLUM, LLAMA, &[]).unwrap(), None);
        let mellum = of(MELLUM, LLAMA, &[("family", "mellum")]).unwrap();
        assert!(mellum.is_some());
        assert_eq!(of(MELLUM, LLAMA, &[("family", "JetBrains/Mellum-4b-base")]).unwrap(), mellum);
        assert_eq!(of(SEED, LLAMA, &[("family", "none")]).unwrap(), None);
        assert_eq!(of(SEED, LLAMA, &[("family", "opencoder")]).unwrap(), None);
    }

    /// Returns what is logged at level warn, and whether gaps are filled.
    fn warnings_of(source: &str, family: &str) -> (String, bool) {
        let log = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(Arc::new(log.reopen().unwrap()))
            .finish();
        let settings = [("source", source), ("family", family)];
        let of_demo = || of(models::demo::TOKENIZER_JSON, "Qwen2ForCausalLM", &settings);
        let template = tracing::subscriber::with_default(subscriber, of_demo).unwrap();
        let text = fs::read_to_string(log.path()).unwrap();
        (text, template.is_some())
    }

    /// Qwen2.5's general models prove what Qwen2.5-Coder proves.
    #[test]
    fn a_family_that_was_assumed_is_a_warning_with_the_setting_that_settles_it() {
        let snapshot = |name: &str| format!("/cache/models--Qwen--{name}/snapshots/0123abcd");
        let rows = [
            ("/models/own".to_owned(), "auto", Some("model.family"), true),
            ("/models/own".to_owned(), "qwen2.5-coder", None, true),
            ("/models/own".to_owned(), "Qwen/Qwen2.5-Coder-7B", None, true),
            ("/models/own".to_owned(), "qwen2.5", Some("not trained to fill gaps"), false),
            ("Qwen/Qwen2.5-Coder-7B".to_owned(), "auto", None, true),
            ("Qwen/Qwen2.5-7B".to_owned(), "auto", Some("not trained to fill gaps"), false),
            (snapshot("Qwen2.5-Coder-7B"), "auto", None, true),
            (snapshot("Qwen2.5-7B"), "auto", Some("not trained to fill gaps"), false),
        ];
        for (source, family, expected, fills_gaps) in rows {
            let (log, is_template) = warnings_of(&source, family);
            assert_eq!(is_template, fills_gaps, "{source}");
            match expected {
                Some(words) => assert!(log.contains(words), "{source}: {log}"),
                None => assert_eq!(log, "", "{source}"),
            }
        }
    }

    #[test]
    fn a_path_in_the_hubs_cache_has_the_name_of_its_repository() {
        let rows = [
            ("/models/coder", "coder"),
            ("/models/coder.gguf", "coder.gguf"),
            ("/hub/models--org--name/snapshots/0123", "org/name/0123"),
            ("/hub/models--org--name/snapshots/0123/a-q8_0.gguf", "org/name/a-q8_0.gguf"),
            ("/hub/models--org--name/blobs/0123", "0123"),
            ("/", "/"),
        ];
        for (path, expected) in rows {
            assert_eq!(name_of_path(Path::new(path)), expected);
        }
    }

    #[test]
    fn settings_win_over_the_family_and_stand_alone() {
        let granite = of(MELLUM, LLAMA, &[("family", "granite-code")]).unwrap().unwrap();
        let turned =
            [("family", "granite-code"), ("order", "spm"), ("stops", "\n\n"), ("bos", "<fim_pad>")];
        let turned = of(MELLUM, LLAMA, &turned).unwrap().unwrap();
        assert_ne!(turned, granite);
        assert_eq!(turned.bos_token_id(), Some(4));
        assert_eq!(turned.stop_texts(), ["\n\n"]);
        let sentinels =
            [("prefix", "<fim_prefix>"), ("suffix", "<fim_suffix>"), ("stops", "<|endoftext|>")];
        for family in ["auto", "none", "yi-coder"] {
            let settings = [&sentinels[..], &[("family", family)]].concat();
            let custom = of(MELLUM, LLAMA, &settings).unwrap().unwrap();
            assert_eq!(custom.num_sentinels(), 2);
            assert_eq!(custom.stop_token_ids(), [1, 3, 0]);
            assert_eq!(custom.stop_texts(), &[] as &[String]);
        }
    }

    #[test]
    fn refusals_name_the_token_the_form_and_the_rule() {
        let rows: [(&[(&str, &str)], &str); 6] = [
            (
                &[("family", "qwen2.5-coder")],
                "the FIM form `qwen2.5-coder` needs `<|fim_prefix|>` as one token",
            ),
            (
                &[("family", "mellum"), ("middle", "<fim_centre>")],
                "`model.fim_middle` must be one control token of the model's tokenizer, got \"<fim_centre>\"",
            ),
            (
                &[("prefix", "def"), ("suffix", "<fim_suffix>")],
                "`model.fim_prefix` must be one control token of the model's tokenizer, got \"def\"",
            ),
            (
                &[("family", "mellum"), ("bos", "<s>")],
                "`model.fim_bos` must be one control token of the model's tokenizer, got \"<s>\"",
            ),
            (
                &[("prefix", "<fim_prefix>")],
                "`model.fim_prefix` and `model.fim_suffix` go together where no family is known",
            ),
            (
                &[("family", "gpt-4o")],
                "`model.family` must be auto, none or one of qwen2.5-coder, ",
            ),
        ];
        for (settings, expected) in rows {
            let error = error(MELLUM, settings);
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
