//! Finding models in a cache that somebody else filled.

use std::fs;

use lacuna::{
    config::HubConfig,
    hub::{self, HubError},
};

use crate::fixture::{COMMIT, model, offline_config};

/// A cache that goes away with its value.
struct Cache {
    config: HubConfig,
    folder: tempfile::TempDir,
}

impl Cache {
    fn with_files(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join("models--org--name").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let cache = Some(folder.path().to_owned());
        let config = HubConfig { cache, is_offline: false, ..offline_config() };
        Self { config, folder }
    }

    /// Returns a cache with these files in its one snapshot.
    fn with_snapshot(files: &[(&str, &str)]) -> Self {
        let paths: Vec<_> =
            files.iter().map(|(name, _)| format!("snapshots/{COMMIT}/{name}")).collect();
        let files = paths.iter().zip(files).map(|(path, (_, text))| (path.as_str(), *text));
        Self::with_files(&[("refs/main", COMMIT)].into_iter().chain(files).collect::<Vec<_>>())
    }
}

#[test]
fn finds_branches_and_commits() {
    let snapshot = |file: &str| format!("snapshots/{COMMIT}/{file}");
    let cache = Cache::with_files(&[
        ("refs/main", &format!("{COMMIT}\n")),
        ("refs/refs/pr/1", COMMIT),
        (&snapshot("config.json"), "{}"),
        (&snapshot("tokenizer.json"), "{}"),
        (&snapshot("model.safetensors"), ""),
    ]);
    for revision in ["main", "refs/pr/1", COMMIT] {
        let found = hub::find(&cache.config, &model(&format!("org/name@{revision}"))).unwrap();
        assert!(found.ends_with(format!("models--org--name/snapshots/{COMMIT}")), "{revision}");
    }
}

#[test]
fn a_gguf_file_needs_no_others() {
    let cache = Cache::with_snapshot(&[("coder-q8_0.gguf", "")]);
    let found = hub::find(&cache.config, &model("org/name")).unwrap();
    assert!(found.ends_with("coder-q8_0.gguf"));
}

#[test]
fn a_miss_says_what_to_do() {
    let mut cache = Cache::with_files(&[("refs/main", COMMIT)]);
    for name in ["org/name@main", "org/name@v2", "org/other@main", "org/name@main:Q4_K_M"] {
        cache.config.is_offline = false;
        let error = hub::find(&cache.config, &model(name)).unwrap_err();
        assert!(matches!(error, HubError::NotCached { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(&format!("run `lacuna models pull {name}`")), "{message}");
        assert!(message.contains(cache.folder.path().to_str().unwrap()), "{message}");
        cache.config.is_offline = true;
        let message = hub::find(&cache.config, &model(name)).unwrap_err().to_string();
        assert!(
            !message.contains("run `lacuna") && message.contains("HF_HUB_OFFLINE"),
            "{message}"
        );
    }
}

#[test]
fn a_file_that_lacks_is_named() {
    let config = ("config.json", "{}");
    let tokenizer = ("tokenizer.json", "{}");
    let index = (
        "model.safetensors.index.json",
        r#"{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}"#,
    );
    let shard = ("model-1-of-2.safetensors", "");
    let rows = [
        (vec![config], "tokenizer.json"),
        (vec![tokenizer], "config.json"),
        (vec![config, tokenizer], "model.safetensors and no *.gguf"),
        (
            vec![config, tokenizer, ("consolidated.safetensors", "")],
            "model.safetensors and no *.gguf",
        ),
        (vec![config, tokenizer, index, shard], "model-2-of-2.safetensors"),
        (vec![config, tokenizer, index], "model-1-of-2.safetensors"),
        // A shard and no index.
        (vec![config, tokenizer, shard], "model.safetensors.index.json"),
        (vec![("adapter_config.json", "{}")], "model.safetensors and no *.gguf"),
    ];
    for (files, lacking) in rows {
        let cache = Cache::with_snapshot(&files);
        match hub::find(&cache.config, &model("org/name")).unwrap_err() {
            HubError::Incomplete { file, .. } => assert_eq!(file, lacking),
            error => panic!("{lacking}: {error}"),
        }
    }
}

#[test]
fn without_a_cache_the_current_folder_is_not_looked_into() {
    let config = offline_config();
    let error = hub::find(&config, &model("org/name")).unwrap_err();
    assert!(matches!(error, HubError::NoCache), "{error}");
}

#[test]
fn a_link_to_an_absent_blob_is_no_file() {
    let cache = Cache::with_snapshot(&[("config.json", "{}"), ("tokenizer.json", "{}")]);
    let snapshot = cache.folder.path().join("models--org--name/snapshots").join(COMMIT);
    std::os::unix::fs::symlink("../../blobs/absent", snapshot.join("model.safetensors")).unwrap();
    let error = hub::find(&cache.config, &model("org/name")).unwrap_err();
    assert!(matches!(error, HubError::Incomplete { .. }), "{error}");
}
