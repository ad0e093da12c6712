//! What a repository has at a revision: its commit, its files with sizes and hashes, its licence.

use serde::Deserialize;

use crate::{
    config::HubModel,
    hub::{
        HubError,
        digest::Digest,
        http::{Asked, HubClient, LINKED_ETAG_HEADER},
        select::RemoteFile,
    },
};

/// The most files that the hub advises for a repository; models have a few dozen.
const NUM_FILES_MAX: usize = 100_000;

/// A repository at one commit.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// The commit that the revision is now.
    pub(super) commit: String,
    /// All its files.
    pub(super) files: Vec<RemoteFile>,
}

/// The part of the answer that is read.
#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    sha256: Option<String>,
    size: Option<u64>,
}

impl From<Sibling> for RemoteFile {
    fn from(sibling: Sibling) -> Self {
        // Git has of a large file a note only, whose size and hash are not the file's.
        let (size, hash) = match sibling.lfs {
            Some(large) => (large.size.or(sibling.size), large.sha256),
            None => (sibling.size, sibling.blob_id),
        };
        let digest = hash.as_deref().and_then(Digest::parse);
        Self { path: sibling.rfilename, num_bytes: size, digest }
    }
}

/// Asks what the model's repository has.
pub(super) async fn fetch(client: &HubClient<'_>, model: &HubModel) -> Result<Listing, HubError> {
    let segments = ["api", "models"].into_iter().chain(model.repository.split('/'));
    let mut url = client.url(segments.chain(["revision", model.revision.as_str()]));
    url.set_query(Some("blobs=true"));
    let text = client.bytes(Asked { model, file: None }, url, None).await?;
    let broken = |what: String| HubError::Answer { host: client.host(), what };
    let answer: Answer =
        serde_json::from_slice(&text).map_err(|error| broken(format!("its listing: {error}")))?;
    // It becomes the name of a folder.
    let is_commit = answer.sha.len() == 40 && answer.sha.chars().all(|c| c.is_ascii_hexdigit());
    if !is_commit {
        return Err(broken("its listing names no commit".to_owned()));
    }
    let num_files = answer.siblings.len();
    if num_files > NUM_FILES_MAX {
        let what = format!("its listing has {num_files} files, more than {NUM_FILES_MAX}");
        return Err(broken(what));
    }
    let files = answer.siblings.into_iter().map(RemoteFile::from).collect();
    Ok(Listing { commit: answer.sha, files })
}

/// A file whose size and hash are known.
#[derive(Clone, Debug)]
pub(super) struct KnownFile {
    /// Path in the repository.
    pub(super) path: String,
    /// Its size.
    pub(super) num_bytes: u64,
    /// Its hash.
    pub(super) digest: Digest,
}

/// Returns a file's size and hash: from the listing, or where a mirror lists names only, from the file's own headers.
pub(super) async fn know(
    client: &HubClient<'_>,
    model: &HubModel,
    commit: &str,
    file: RemoteFile,
) -> Result<KnownFile, HubError> {
    let RemoteFile { path, num_bytes, digest } = file;
    if let (Some(num_bytes), Some(digest)) = (num_bytes, digest) {
        return Ok(KnownFile { path, num_bytes, digest });
    }
    let url = client.file_url(&model.repository, commit, &path);
    let headers = client.head(Asked { model, file: Some(&path) }, url).await?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let tag = text(LINKED_ETAG_HEADER).or_else(|| text("etag"));
    let digest = tag.map(|tag| tag.trim_start_matches("W/").trim_matches('"'));
    let digest = digest.and_then(Digest::parse);
    let size = text("x-linked-size").or_else(|| text("content-length"));
    let num_bytes = size.and_then(|size| size.parse().ok());
    match (num_bytes, digest) {
        (Some(num_bytes), Some(digest)) => Ok(KnownFile { path, num_bytes, digest }),
        _ => Err(HubError::NoHash { host: client.host(), file: path }),
    }
}
