//! The local cache, laid out as Hugging Face's own tools do, so that they and we find each other's downloads.
//!
//! ```text
//! models--org--name/blobs/HASH                 content, once for all revisions; HASH.incomplete while it comes
//! models--org--name/snapshots/COMMIT/FILE      links into blobs
//! models--org--name/refs/REVISION              the commit that a branch or tag was when it was last looked up
//! .locks/models--org--name/HASH.lock           held by whoever downloads the blob
//! ```

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use models::weights::ShardIndex;

use crate::{
    config::{HubConfig, HubModel},
    hub::{HubError, digest::Digest, select},
};

/// What begins a repository's folder.
pub(super) const PREFIX: &str = "models--";
/// How the name of a blob ends while it comes.
pub(super) const PART_ENDING: &str = ".incomplete";
/// What a copy without any weights lacks, for messages.
const NO_WEIGHTS: &str = "model.safetensors and no *.gguf";

/// Returns the folder of all repositories.
///
/// # Errors
/// [`HubError::NoCache`].
pub fn cache_folder(config: &HubConfig) -> Result<&Path, HubError> {
    config.cache.as_deref().ok_or(HubError::NoCache)
}

/// The folder of one repository.
#[derive(Clone, Debug)]
pub(super) struct RepositoryFolder {
    cache: PathBuf,
    name: String,
}

impl RepositoryFolder {
    /// Returns the folder of `org/name` in `cache`.
    pub(super) fn new(cache: &Path, repository: &str) -> Self {
        let name = format!("{PREFIX}{}", repository.replace('/', "--"));
        Self { cache: cache.to_owned(), name }
    }

    fn root(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    /// Returns where a blob lies once it is whole.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs").join(digest.to_string())
    }

    /// Returns where it lies while it comes.
    pub(super) fn part(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs").join(format!("{digest}{PART_ENDING}"))
    }

    /// Returns the file whose lock its downloader holds.
    pub(super) fn lock(&self, digest: &Digest) -> PathBuf {
        self.cache.join(".locks").join(&self.name).join(format!("{digest}.lock"))
    }

    /// Returns the folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root().join("snapshots").join(commit)
    }

    /// Makes the folders that downloads go to.
    pub(super) fn create(&self) -> Result<(), HubError> {
        let locks = self.cache.join(".locks").join(&self.name);
        for folder in [self.root().join("blobs"), self.root().join("snapshots"), locks] {
            fs::create_dir_all(&folder).map_err(|error| HubError::cache(&folder, error))?;
        }
        Ok(())
    }

    /// Makes `file` of a commit's snapshot a link to its blob.
    pub(super) fn link(&self, commit: &str, file: &str, digest: &Digest) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(file);
        // Relative, so that a cache can be copied and mounted elsewhere: out of the snapshot, and of folders in it.
        let up = "../".repeat(2 + file.matches('/').count());
        let target = format!("{up}blobs/{digest}");
        if fs::read_link(&path).is_ok_and(|found| found == Path::new(&target)) {
            return Ok(());
        }
        self.place(&path, |new| symlink(&target, new))
    }

    /// Notes the commit that a branch or tag is now. A commit needs no note.
    pub(super) fn note_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.root().join("refs").join(revision);
        self.place(&path, |new| File::create_new(new)?.write_all(commit.as_bytes()))
    }

    /// Makes something elsewhere and renames it to `path`, so that nobody ever sees that missing, or half of it.
    fn place(&self, path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> Result<(), HubError> {
        let place = || {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            // Not where files and revisions are listed, for what a crash leaves must be taken for neither. The name is
            // new by trying: a process is no number of its own in a container.
            let new = tempfile::Builder::new().prefix(".new-").make_in(self.root(), make)?;
            new.persist(path).map_err(io::Error::from)
        };
        place().map_err(|error| HubError::cache(path, error))
    }

    /// Returns the commit of a branch, tag or commit; `None` where none is noted.
    pub(super) fn commit(&self, revision: &str) -> Result<String, HubError> {
        let path = self.root().join("refs").join(revision);
        match fs::read_to_string(&path) {
            Ok(commit) => Ok(commit.trim().to_owned()),
            // A commit has no entry under `refs`: it is the snapshot's name itself.
            Err(error) if is_absent(&error) => Ok(revision.to_owned()),
            Err(error) => Err(HubError::cache(&path, error)),
        }
    }
}

/// Returns where the model lies in the cache: its folder, or its GGUF file.
///
/// # Errors
/// [`HubError::NoCache`], [`HubError::NotCached`], [`HubError::Incomplete`], [`HubError::Choice`] or [`HubError::Cache`].
pub fn find(config: &HubConfig, model: &HubModel) -> Result<PathBuf, HubError> {
    let cache = cache_folder(config)?;
    let folder = RepositoryFolder::new(cache, &model.repository);
    let snapshot = folder.snapshot(&folder.commit(&model.revision)?);
    let not_cached = HubError::NotCached {
        model: model.clone(),
        cache: cache.to_owned(),
        is_offline: config.is_offline,
    };
    if !snapshot.is_dir() {
        return Err(not_cached);
    }
    let mut files = Vec::new();
    collect(&snapshot, "", &mut files).map_err(|error| HubError::cache(&snapshot, error))?;
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    let incomplete = |file: String| HubError::Incomplete {
        model: model.clone(),
        snapshot: snapshot.clone(),
        file,
        is_offline: config.is_offline,
    };
    let gguf = select::gguf_matches(&names, model.file.as_deref());
    if model.file.is_none() && (gguf.is_empty() || !select::safetensors(&names).is_empty()) {
        let missing = missing_file(&snapshot, &names)?;
        return missing.map_or(Ok(snapshot.clone()), |file| Err(incomplete(file)));
    }
    match &gguf[..] {
        [] => Err(not_cached),
        [parts] if parts.len() < select::num_parts(parts[0]) => {
            let num_missing = select::num_parts(parts[0]) - parts.len();
            Err(incomplete(format!("{num_missing} of the files that belong to {}", parts[0])))
        }
        [parts] => Ok(snapshot.join(parts[0])),
        several => Err(HubError::Choice {
            repository: model.repository.clone(),
            asked: model.file.clone(),
            choices: several.iter().map(|parts| parts[0].to_owned()).collect(),
        }),
    }
}

/// Returns the first file that a model in transformers' layout lacks: what is whole here is what can be loaded.
fn missing_file(snapshot: &Path, names: &[&str]) -> Result<Option<String>, HubError> {
    let has = |name: &str| names.contains(&name);
    let is_adapter = has(select::ADAPTER_CONFIG);
    if !is_adapter && !has(select::CONFIG) {
        return Ok(Some(select::CONFIG.to_owned()));
    }
    let mut tokenizers = select::OTHER_TOKENIZERS.iter().chain([&select::TOKENIZER]);
    if !is_adapter && !tokenizers.any(|name| has(name)) {
        return Ok(Some(select::TOKENIZER.to_owned()));
    }
    if has(select::SINGLE) || is_adapter && has(select::ADAPTER) && !has(select::INDEX) {
        return Ok(None);
    }
    if has(select::INDEX) {
        let path = snapshot.join(select::INDEX);
        let text = fs::read(&path).map_err(|error| HubError::cache(&path, error))?;
        let index = ShardIndex::parse(select::INDEX, &text)
            .map_err(|error| HubError::cache(&path, io::Error::other(error)))?;
        return Ok(index.shards().into_iter().find(|shard| !has(shard)).map(str::to_owned));
    }
    let has_shard = names.iter().any(|name| select::is_shard(name));
    Ok(Some(if has_shard { select::INDEX } else { NO_WEIGHTS }.to_owned()))
}

/// Collects the paths of files below `folder`. Links to absent blobs, as an interrupted download may leave them, count
/// as absent.
pub(super) fn collect(folder: &Path, prefix: &str, files: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        // A folder that is a link is none of ours, and might lead in a circle.
        if entry.file_type()?.is_dir() {
            collect(&path, &format!("{name}/"), files)?;
        } else if path.is_file() {
            files.push(name);
        }
    }
    Ok(())
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
