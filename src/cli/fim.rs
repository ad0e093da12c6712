//! How the model is asked to fill a gap: what the settings say, over what its family has.

use std::path::Path;

use anyhow::{anyhow, bail};
use tracing::{info, warn};

use crate::{
    config::{Config, FamilyChoice, FimConfig, ModelConfig, ModelSource, OrderChoice, TokenChoice},
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
    let family = choose(&config.model, architecture, tokenizer)?;
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
    if let Some(fim) = custom(&config.model.fim)? {
        return resolve(config, CUSTOM, &fim, tokenizer).map(Some);
    }
    if let Some(Family { name, training: Training::Without(reason), .. }) = family {
        warn!(family = name, reason, "not trained to fill gaps: only plain continuation will work");
    }
    Ok(None)
}

/// Returns the family that was named, else the one that the model proves to be of.
pub(super) fn choose(
    model: &ModelConfig,
    architecture: &str,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Option<&'static Family>> {
    match &model.family {
        FamilyChoice::None => return Ok(None),
        FamilyChoice::Named(name) => return by_setting(name).map(Some),
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
        Recognised::BySigns(family) | Recognised::ByName(family) | Recognised::First(family) => {
            info!(family = family.name, reason, "recognised");
        }
        Recognised::Unknown(suggested) if model.fim.prefix.is_none() => {
            let suggested = suggested.map_or("none", |family| family.name);
            warn!(
                suggested_by_name = suggested,
                reason,
                "no known family: only plain continuation will work, see model.family and model.fim_prefix"
            );
        }
        Recognised::Unknown(_) => {}
    }
    Ok(recognised.family())
}

/// Returns the family of a setting: by its name, or by one that editors use.
fn by_setting(name: &str) -> anyhow::Result<&'static Family> {
    family::by_name(name).or_else(|| family::by_alias(name)).ok_or_else(|| {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        anyhow!("`model.family` must be auto, none or one of {}, got {name:?}", names.join(", "))
    })
}

/// Returns the name that a model goes by where it comes from.
fn name(source: &ModelSource) -> String {
    let file_name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    match source {
        ModelSource::Demo => "demo".to_owned(),
        ModelSource::Path(path) => file_name(path).unwrap_or_default(),
        ModelSource::Hub(model) => model.repository.clone(),
    }
}

/// Returns the form that settings alone make, if they name sentinels.
fn custom(fim: &FimConfig) -> anyhow::Result<Option<Fim<'_>>> {
    let (prefix, suffix) = match (&fim.prefix, &fim.suffix) {
        (None, None) => return Ok(None),
        (Some(prefix), Some(suffix)) => (prefix, suffix),
        _ => {
            bail!("`model.fim_prefix` and `model.fim_suffix` go together where no family is known")
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
    info!(form = name, order = order.as_label(), "fill-in-the-middle");
    Ok(match config.completion.line_start_layout {
        None => template,
        Some(true) => template.with_layout(Layout::LineStart),
        Some(false) => template.with_layout(Layout::Plain),
    })
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
        let rows: [(&[(&str, &str)], &str); 5] = [
            (
                &[("family", "qwen2.5-coder")],
                "the FIM form `qwen2.5-coder` needs `<|fim_prefix|>` as one token",
            ),
            (
                &[("family", "mellum"), ("middle", "<fim_centre>")],
                "the FIM form `mellum` needs `<fim_centre>` as one token",
            ),
            (
                &[("prefix", "def"), ("suffix", "<fim_suffix>")],
                "the FIM form `custom` needs `def` as one token",
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
