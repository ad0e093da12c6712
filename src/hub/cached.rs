//! What lies in the cache: repositories, their commits and sizes.

use std::{fs, io, path::Path};

use serde::Serialize;

use crate::hub::{
    HubError,
    cache::{PART_ENDING, PREFIX, collect},
};

/// A repository in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CachedRepository {
    /// `org/name`.
    pub repository: String,
    /// Bytes on the disk, downloads that are not whole included.
    pub num_bytes: u64,
    /// Of these, bytes of downloads that are not whole.
    pub num_partial_bytes: u64,
    /// Commits that are there, each with the branches and tags that lead to it.
    pub snapshots: Vec<CachedSnapshot>,
}

/// The files of one commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CachedSnapshot {
    /// Its commit.
    pub commit: String,
    /// Branches and tags that were this commit when they were last looked up.
    pub revisions: Vec<String>,
    /// Its files.
    pub files: Vec<String>,
}

/// Returns the models in `cache`, by name; none where there is no such folder.
///
/// # Errors
/// [`HubError::Cache`].
pub fn list(cache: &Path) -> Result<Vec<CachedRepository>, HubError> {
    let mut found = Vec::new();
    for name in entries(cache).map_err(|error| HubError::cache(cache, error))? {
        if let Some(repository) = name.strip_prefix(PREFIX) {
            // Only the first `--` stands for a slash: a name may have its own.
            let repository = repository.replacen("--", "/", 1);
            let folder = cache.join(&name);
            let read = read_repository(&folder, repository);
            found.push(read.map_err(|error| HubError::cache(&folder, error))?);
        }
    }
    Ok(found)
}

fn read_repository(folder: &Path, repository: String) -> io::Result<CachedRepository> {
    let (mut num_bytes, mut num_partial_bytes) = (0, 0);
    let blobs = folder.join("blobs");
    for name in entries(&blobs)? {
        let len = fs::metadata(blobs.join(&name)).map_or(0, |metadata| metadata.len());
        num_bytes += len;
        num_partial_bytes += if name.ends_with(PART_ENDING) { len } else { 0 };
    }
    let (refs, mut revisions) = (folder.join("refs"), Vec::new());
    if refs.is_dir() {
        collect(&refs, "", &mut revisions)?;
    }
    revisions.sort_unstable();
    let mut snapshots = Vec::new();
    for commit in entries(&folder.join("snapshots"))? {
        let mut files = Vec::new();
        collect(&folder.join("snapshots").join(&commit), "", &mut files)?;
        files.sort_unstable();
        let is_this = |revision: &&String| {
            fs::read_to_string(refs.join(revision)).is_ok_and(|noted| noted.trim() == commit)
        };
        let revisions = revisions.iter().filter(is_this).cloned().collect();
        snapshots.push(CachedSnapshot { commit, revisions, files });
    }
    Ok(CachedRepository { repository, num_bytes, num_partial_bytes, snapshots })
}

/// Returns the names in a folder in order, none where it is absent.
fn entries(folder: &Path) -> io::Result<Vec<String>> {
    let listing = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut names = Vec::new();
    for entry in listing {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}
