//! Which files of a repository are wanted: those that are read here, and nothing else.
//!
//! Names come from a server, so that each is looked at before any becomes a path.

use std::collections::{BTreeMap, HashMap};

use models::gguf::PartName;

use crate::hub::{HubError, digest::Digest};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// Adapters have other names than models.
pub(crate) const ADAPTER: &str = "adapter_model.safetensors";
pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
const GGUF: &str = ".gguf";

/// Small files that are taken wherever they are, the card among them: it says the licence.
const ALWAYS: &[&str] = &[
    CONFIG,
    ADAPTER_CONFIG,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "README.md",
];
/// Other forms of a tokenizer, taken where the usual one lacks.
pub(crate) const OTHER_TOKENIZERS: &[&str] =
    &["tokenizer.model", "tokenizer.model.v3", "tekken.json"];
/// What belongs to GGUF files, which say the rest themselves.
const BESIDE_GGUF: &[&str] = &[TOKENIZER, "README.md"];
/// Endings of weights that Python's pickle made.
const PICKLES: &[&str] = &[".bin", ".pth", ".pt", ".ckpt", ".pkl"];
/// Parts of names of GGUF files that are no language model: projectors of images, statistics for quantising.
const NO_MODELS: &[&str] = &["mmproj", "imatrix"];

/// A file of a repository, as its listing has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// Path in the repository, with `/`.
    pub(crate) path: String,
    /// Size, where the listing says it.
    pub(crate) num_bytes: Option<u64>,
    /// Hash, where the listing says it.
    pub(crate) digest: Option<Digest>,
}

/// Returns the wanted files among those of `repository`, small ones first; of GGUF files those of the model that `asked`
/// names, first to last.
///
/// # Errors
/// [`HubError::UnsafeName`], [`HubError::Lacks`], [`HubError::PicklesOnly`], [`HubError::NoWeights`] or
/// [`HubError::Choice`].
pub(crate) fn select(
    repository: &str,
    files: &[RemoteFile],
    asked: Option<&str>,
) -> Result<Vec<RemoteFile>, HubError> {
    if let Some(file) = files.iter().find(|file| !is_safe(&file.path)) {
        return Err(HubError::UnsafeName {
            repository: repository.to_owned(),
            name: file.path.clone(),
        });
    }
    let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    // In the order of what was chosen: a listing has its own, and the first part of a model names it.
    let wanted = wanted(repository, &names, asked)?.into_iter();
    let by_path: HashMap<&str, &RemoteFile> =
        files.iter().map(|file| (file.path.as_str(), file)).collect();
    Ok(wanted.filter_map(|name| by_path.get(name).copied().cloned()).collect())
}

fn wanted<'a>(
    repository: &str,
    names: &[&'a str],
    asked: Option<&str>,
) -> Result<Vec<&'a str>, HubError> {
    let has = |name: &str| names.contains(&name);
    let pick = |rows: &[&str]| -> Vec<&'a str> {
        names.iter().copied().filter(|name| rows.contains(name)).collect()
    };
    let weights = if has(CONFIG) || has(ADAPTER_CONFIG) { safetensors(names) } else { Vec::new() };
    if asked.is_none() && !weights.is_empty() {
        let tokenizers = pick(if has(TOKENIZER) { &[TOKENIZER] } else { OTHER_TOKENIZERS });
        if tokenizers.is_empty() && !has(ADAPTER_CONFIG) {
            let (repository, lacking) = (repository.to_owned(), TOKENIZER.to_owned());
            return Err(HubError::Lacks { repository, lacking });
        }
        return Ok([pick(ALWAYS), tokenizers, weights].concat());
    }
    if asked.is_some() || !gguf_models(names).is_empty() {
        let chosen = choose(repository, names, asked)?;
        return Ok([pick(BESIDE_GGUF), chosen].concat());
    }
    let repository = repository.to_owned();
    if names.iter().any(|name| is_shard(name)) {
        return Err(HubError::Lacks { repository, lacking: INDEX.to_owned() });
    }
    let pickle = names.iter().find(|name| PICKLES.iter().any(|ending| name.ends_with(ending)));
    Err(match pickle {
        Some(file) => HubError::PicklesOnly { repository, file: (*file).to_owned() },
        None => HubError::NoWeights { repository },
    })
}

/// Returns the safetensors of transformers' layout, as they are loaded: one file, or shards with their index. Mistral's own `consolidated.safetensors`
/// beside them is the same weights once more, and variants such as `model.fp16.safetensors` are too.
pub(crate) fn safetensors<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let named = |wanted: &str| names.iter().copied().find(|name| *name == wanted);
    if let Some(single) = named(SINGLE) {
        return vec![single];
    }
    let Some(index) = named(INDEX) else { return named(ADAPTER).into_iter().collect() };
    let mut shards: Vec<&str> = names.iter().copied().filter(|name| is_shard(name)).collect();
    if !shards.is_empty() {
        shards.push(index);
    }
    shards
}

/// Returns whether a file's name is that of one of several with a model's weights.
pub(crate) fn is_shard(name: &str) -> bool {
    name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors")
}

/// Returns the files of the GGUF model that is meant, first to last.
///
/// # Errors
/// [`HubError::Choice`] with what there is; [`HubError::Lacks`] where parts of it are not there.
fn choose<'a>(
    repository: &str,
    names: &[&'a str],
    asked: Option<&str>,
) -> Result<Vec<&'a str>, HubError> {
    let mut found = gguf_matches(names, asked);
    if found.len() == 1 {
        let parts = found.remove(0);
        let (num_found, num_parts) = (parts.len(), num_parts(parts[0]));
        if num_found < num_parts {
            let num_missing = num_parts - num_found;
            let lacking = format!("{num_missing} of the files that belong to {}", parts[0]);
            return Err(HubError::Lacks { repository: repository.to_owned(), lacking });
        }
        return Ok(parts);
    }
    // Among several that were meant the choice is between these, else between all.
    let offered = if found.is_empty() { gguf_matches(names, None) } else { found };
    Err(HubError::Choice {
        repository: repository.to_owned(),
        asked: asked.map(ToOwned::to_owned),
        choices: offered.iter().map(|model| model[0].to_owned()).collect(),
    })
}

/// Returns the GGUF models, each with its files in order, that `asked` names by the path of a file, else by a word of
/// the name such as `Q4_K_M`; without it all.
pub(crate) fn gguf_matches<'a>(names: &[&'a str], asked: Option<&str>) -> Vec<Vec<&'a str>> {
    let models = gguf_models(names);
    let Some(asked) = asked else { return models.into_values().collect() };
    let is_path = |model: &&Vec<&str>| model.iter().any(|name| name.eq_ignore_ascii_case(asked));
    let has_word_of = |model: &&Vec<&str>| {
        has_word(&stem(model[0]).to_ascii_lowercase(), &asked.to_ascii_lowercase())
    };
    let by_path: Vec<_> = models.values().filter(is_path).cloned().collect();
    if by_path.is_empty() {
        models.values().filter(has_word_of).cloned().collect()
    } else {
        by_path
    }
}

/// Returns the GGUF models by name, each with its files in order: a model may be split.
fn gguf_models<'a>(names: &[&'a str]) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut models: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names.iter().filter(|name| name.to_ascii_lowercase().ends_with(GGUF)) {
        let is_model = NO_MODELS.iter().all(|part| !name.to_ascii_lowercase().contains(part));
        if is_model {
            models.entry(stem(name)).or_default().push(name);
        }
    }
    for model in models.values_mut() {
        model.sort_unstable();
    }
    models
}

/// Returns how many files the model of this one has, by its name: `…-00001-of-00003.gguf` is of three.
pub(crate) fn num_parts(name: &str) -> usize {
    PartName::parse(name).map_or(1, |part| part.count as usize)
}

/// Returns a GGUF file's name without its ending and without the number of its part.
fn stem(name: &str) -> &str {
    PartName::parse(name).map_or(&name[..name.len() - GGUF.len()], |part| part.stem)
}

/// Returns whether `word` stands in `text` between others: `q4_k` is no word of `coder-q4_k_m`.
fn has_word(text: &str, word: &str) -> bool {
    let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(start, _)| {
        let (before, after) = (&text[..start], &text[start + word.len()..]);
        !before.ends_with(is_inside) && !after.starts_with(is_inside)
    })
}

/// Returns whether a name is a path that stays inside of its folder on every system.
fn is_safe(path: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && !part.contains(|c: char| c.is_control() || "\\:".contains(c))
    };
    path.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(names: &[&str], asked: Option<&str>) -> Result<Vec<String>, HubError> {
        let file =
            |name: &&str| RemoteFile { path: (*name).to_owned(), num_bytes: Some(1), digest: None };
        let listed: Vec<RemoteFile> = names.iter().map(file).collect();
        let files = select("org/name", &listed, asked)?;
        Ok(files.into_iter().map(|file| file.path).collect())
    }

    #[track_caller]
    fn check(names: &[&str], asked: Option<&str>, expected: &[&str]) {
        assert_eq!(selected(names, asked).unwrap(), expected, "{names:?}");
    }

    #[test]
    fn takes_what_is_read_and_nothing_else() {
        check(
            &[
                ".gitattributes",
                "README.md",
                "config.json",
                "merges.txt",
                "model.safetensors",
                "onnx/model.onnx",
                "pytorch_model.bin",
                "tokenizer.json",
                "tokenizer.model",
                "original/model.safetensors",
            ],
            None,
            &["README.md", "config.json", "tokenizer.json", "model.safetensors"],
        );
        let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let index = "model.safetensors.index.json";
        let mistral = ["config.json", "consolidated.safetensors", shards[0], shards[1], index];
        let with_tekken = [&mistral[..], &["tekken.json"]].concat();
        check(&with_tekken, None, &["config.json", "tekken.json", shards[0], shards[1], index]);
        check(
            &["config.json", "model.safetensors", "tekken.json", "model.Q8_0.gguf"],
            None,
            &["config.json", "tekken.json", "model.safetensors"],
        );
        let adapter = ["adapter_config.json", "adapter_model.safetensors"];
        check(&[adapter[0], adapter[1], "optimizer.pt"], None, &adapter);
    }

    #[test]
    fn one_gguf_model_is_chosen() {
        let names = [
            "coder-q2_k.gguf",
            "coder-q4_k_m.gguf",
            "coder-q4_k_s.gguf",
            "coder-q8_0-00001-of-00002.gguf",
            "coder-q8_0-00002-of-00002.gguf",
            "mmproj-f16.gguf",
            "UD/coder-f16.gguf",
            "README.md",
            "config.json",
        ];
        let rows = [
            ("Q4_K_M", vec!["coder-q4_k_m.gguf"]),
            ("coder-q2_k.gguf", vec!["coder-q2_k.gguf"]),
            ("q8_0", vec!["coder-q8_0-00001-of-00002.gguf", "coder-q8_0-00002-of-00002.gguf"]),
            ("F16", vec!["UD/coder-f16.gguf"]),
        ];
        for (asked, expected) in rows {
            check(&names, Some(asked), &[&["README.md"], &expected[..]].concat());
        }
        check(&["only.Q4_0.gguf"], None, &["only.Q4_0.gguf"]);
        let [first, second] = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"];
        check(&[second, "README.md", first], None, &["README.md", first, second]);
        for asked in [None, Some("q4"), Some("coder"), Some("mmproj-f16.gguf")] {
            let error = selected(&names, asked).unwrap_err();
            assert!(matches!(&error, HubError::Choice { choices, .. } if choices.len() == 5));
            assert!(error.to_string().contains("coder-q8_0-00001-of-00002.gguf"), "{error}");
        }
        let error = selected(&["config.json", "model.safetensors"], Some("Q4_0")).unwrap_err();
        assert!(error.to_string().contains("has no GGUF files"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let error = selected(&["config.json", "pytorch_model.bin"], None).unwrap_err();
        assert!(matches!(error, HubError::PicklesOnly { .. }), "{error}");
        for names in [&["README.md"][..], &["model.safetensors"], &["config.json", "x.onnx"]] {
            let error = selected(names, None).unwrap_err();
            assert!(matches!(error, HubError::NoWeights { .. }), "{error}");
        }
    }

    #[test]
    fn what_could_not_be_loaded_is_refused() {
        let shard = "model-00001-of-00002.safetensors";
        let rows: [(&[&str], &str); 3] = [
            (&["config.json", "tokenizer.json", shard], "lacks model.safetensors.index.json"),
            (&["config.json", "vocab.json", "model.safetensors"], "lacks tokenizer.json"),
            (&["a-00001-of-00003.gguf", "a-00003-of-00003.gguf"], "lacks 1 of the files that"),
        ];
        for (names, says) in rows {
            let error = selected(names, None).unwrap_err();
            assert!(matches!(error, HubError::Lacks { .. }), "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
        check(&["config.json", shard, "a.gguf"], None, &["a.gguf"]);
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["../x", "/etc/passwd", "a/../../x", "a//b", "", "a\\b", "C:x", "a\n", "./x"] {
            let names = ["config.json", "model.safetensors", name];
            let error = selected(&names, None).unwrap_err();
            assert!(matches!(error, HubError::UnsafeName { .. }), "{name:?}: {error}");
        }
    }

    #[test]
    fn counts_the_parts_of_a_model() {
        let rows = [("a.gguf", 1), ("a-00001-of-00003.gguf", 3), ("a-1-of-3.gguf", 1)];
        for (name, count) in rows {
            assert_eq!(num_parts(name), count, "{name}");
        }
    }
}
