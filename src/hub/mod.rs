//! Models of the Hugging Face hub, as far as they lie in the local cache. Nothing is downloaded.
//!
//! The cache has a folder a repository: `models--org--name/refs/REVISION` holds a commit, and
//! `models--org--name/snapshots/COMMIT` the files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Files without which safetensors cannot be loaded; a GGUF file needs none.
const FILES: &[&str] = &["config.json", "tokenizer.json"];

/// Why a repository's files are not at hand.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The cache does not have the repository or the revision.
    #[error(
        "`{repository}` at revision `{revision}` is not in the Hugging Face cache {}, and this release does not \
         download: run `hf download {repository} --revision {revision}`, set `model.hub_cache` (--hub-cache) to the \
         cache that has it, or give the model's folder with --model",
        cache.display()
    )]
    NotCached {
        /// `org/name`.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The snapshot is there but lacks a file.
    #[error(
        "the copy of `{repository}` in {} has no {file}; run `hf download {repository}` again",
        snapshot.display()
    )]
    Incomplete {
        /// `org/name`.
        repository: String,
        /// The folder that was found.
        snapshot: PathBuf,
        /// What it lacks.
        file: &'static str,
    },
    /// The cache cannot be read.
    #[error("cannot read the Hugging Face cache at {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Returns the folder of `repository` (`org/name`) at `revision` (a branch, tag or commit) in `cache`.
///
/// # Errors
/// [`HubError::NotCached`], [`HubError::Incomplete`] or [`HubError::Read`].
pub fn find_snapshot(cache: &Path, repository: &str, revision: &str) -> Result<PathBuf, HubError> {
    let folder = cache.join(format!("models--{}", repository.replace('/', "--")));
    let commit = match fs::read_to_string(folder.join("refs").join(revision)) {
        Ok(commit) => commit.trim().to_owned(),
        // A commit has no entry under `refs`: it is the snapshot's name itself.
        Err(error) if is_absent(&error) => revision.to_owned(),
        Err(source) => return Err(HubError::Read { path: folder.join("refs"), source }),
    };
    let snapshot = folder.join("snapshots").join(commit);
    if !snapshot.is_dir() {
        return Err(HubError::NotCached {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
            cache: cache.to_owned(),
        });
    }
    let file = missing_file(&snapshot)
        .map_err(|source| HubError::Read { path: snapshot.clone(), source })?;
    match file {
        None => Ok(snapshot),
        Some(file) => {
            Err(HubError::Incomplete { repository: repository.to_owned(), snapshot, file })
        }
    }
}

/// A name that is too long or passes through a file is as absent as one that is not there.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::InvalidFilename
    )
}

/// Returns the first file that the snapshot lacks. Links to absent blobs, as an interrupted download leaves them,
/// count as lacking.
fn missing_file(snapshot: &Path) -> io::Result<Option<&'static str>> {
    let (mut has_safetensors, mut has_gguf) = (false, false);
    for entry in fs::read_dir(snapshot)? {
        let path = entry?.path();
        let is_weights = |ending| path.extension().is_some_and(|extension| extension == ending);
        if path.is_file() {
            has_safetensors |= is_weights("safetensors");
            has_gguf |= is_weights("gguf");
        }
    }
    if has_gguf && !has_safetensors {
        return Ok(None);
    }
    let file = FILES.iter().find(|file| !snapshot.join(file).is_file()).copied();
    Ok(file.or_else(|| (!has_safetensors).then_some("*.safetensors and no *.gguf")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A cache in the temporary folder that goes away with its value.
    struct Cache(PathBuf);

    impl Cache {
        fn with_files(test: &str, files: &[(&str, &str)]) -> Self {
            let root =
                std::env::temp_dir().join(format!("lacuna-hub-{test}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join("models--org--name").join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Cache {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn snapshot(file: &str) -> String {
        format!("snapshots/{COMMIT}/{file}")
    }

    #[test]
    fn finds_branches_and_commits() {
        let cache = Cache::with_files(
            "finds",
            &[
                ("refs/main", &format!("{COMMIT}\n")),
                ("refs/refs/pr/1", COMMIT),
                (&snapshot("config.json"), "{}"),
                (&snapshot("tokenizer.json"), "{}"),
                (&snapshot("model-00001-of-00002.safetensors"), ""),
            ],
        );
        for revision in ["main", "refs/pr/1", COMMIT] {
            let found = find_snapshot(&cache.0, "org/name", revision).unwrap();
            assert!(found.ends_with(format!("models--org--name/snapshots/{COMMIT}")), "{revision}");
        }
    }

    #[test]
    fn a_gguf_file_needs_no_others() {
        let files = [("refs/main", COMMIT), (&snapshot("coder-q8_0.gguf"), "")];
        let cache = Cache::with_files("gguf", &files);
        assert!(find_snapshot(&cache.0, "org/name", "main").is_ok());
    }

    #[test]
    fn a_miss_says_what_to_do() {
        let cache = Cache::with_files("miss", &[("refs/main", COMMIT)]);
        for (repository, revision) in
            [("org/name", "main"), ("org/name", "v2"), ("org/other", "main")]
        {
            let error = find_snapshot(&cache.0, repository, revision).unwrap_err();
            assert!(matches!(error, HubError::NotCached { .. }), "{error}");
            let message = error.to_string();
            assert!(
                message.contains(&format!("hf download {repository} --revision {revision}")),
                "{message}"
            );
            assert!(message.contains(&cache.0.display().to_string()), "{message}");
        }
    }

    #[test]
    fn a_file_that_lacks_is_named() {
        let config = (snapshot("config.json"), "{}");
        let tokenizer = (snapshot("tokenizer.json"), "{}");
        let rows = [
            ("lacks-tokenizer", vec![&config], "tokenizer.json"),
            ("lacks-config", vec![&tokenizer], "config.json"),
            ("lacks-weights", vec![&config, &tokenizer], "*.safetensors and no *.gguf"),
        ];
        for (test, files, lacking) in rows {
            let mut rows = vec![("refs/main", COMMIT)];
            rows.extend(files.into_iter().map(|(path, text)| (path.as_str(), *text)));
            let cache = Cache::with_files(test, &rows);
            match find_snapshot(&cache.0, "org/name", "main").unwrap_err() {
                HubError::Incomplete { file, .. } => assert_eq!(file, lacking),
                error => panic!("{test}: {error}"),
            }
        }
    }
}
