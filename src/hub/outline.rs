//! The outline of a model that is not in the cache: its small files, and of each weight file the header.
//!
//! Weight files become sparse files of their true size, so that whoever reads headers from a folder finds one, and no
//! weight is downloaded.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    config::{HubConfig, HubModel},
    hub::{
        HubError, Watch,
        http::{Asked, HubClient},
        listing::KnownFile,
        pull::wanted_files,
    },
};

/// What is fetched of safetensors at first: the headers of most files.
const SAFETENSORS_GUESS: u64 = 64 << 10;
/// Bytes before a safetensors header, its length.
const LENGTH_BYTES: u64 = 8;
/// The longest header that the format allows.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// A folder with a model's outline, gone with its value.
#[derive(Debug)]
pub struct Outline {
    /// The folder, or the GGUF file in it.
    pub path: PathBuf,
    /// The commit that it is of.
    pub commit: String,
    /// Bytes that were downloaded.
    pub num_bytes: u64,
    _folder: TempDir,
}

/// Fetches the outline of `model`; of GGUF files, whose headers do not tell their length, the first `gguf_bytes`.
///
/// # Errors
/// [`HubError`], with what to do about it.
pub async fn outline(
    config: &HubConfig,
    model: &HubModel,
    gguf_bytes: u64,
    watch: Watch<'_>,
) -> Result<Outline, HubError> {
    if config.is_offline {
        return Err(HubError::Offline { model: model.clone(), what: "looked up" });
    }
    let client = HubClient::new(config, watch)?;
    let (commit, files) = wanted_files(&client, config, model).await?;
    let folder =
        TempDir::new().map_err(|error| HubError::cache(&tempfile::env::temp_dir(), error))?;
    let mut path = folder.path().to_owned();
    let mut num_bytes = 0;
    for file in &files {
        let reader = Reader { client: &client, model, commit: &commit, file };
        let bytes = match Path::new(&file.path).extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => reader.safetensors_header().await?,
            Some(ending) if ending.eq_ignore_ascii_case("gguf") => reader.start(gguf_bytes).await?,
            _ => reader.start(file.num_bytes).await?,
        };
        num_bytes += bytes.len() as u64;
        let placed = folder.path().join(&file.path);
        write_sparse(&placed, &bytes, file.num_bytes)
            .map_err(|error| HubError::cache(&placed, error))?;
        // Parts are in order, and a model is named by its first.
        let is_gguf = placed.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
        if is_gguf && path.is_dir() {
            path = placed;
        }
    }
    Ok(Outline { path, commit, num_bytes, _folder: folder })
}

/// Reads the beginning of one file.
struct Reader<'a> {
    client: &'a HubClient<'a>,
    model: &'a HubModel,
    commit: &'a str,
    file: &'a KnownFile,
}

impl Reader<'_> {
    /// Returns the first bytes of the file, at most `num_bytes`.
    async fn start(&self, num_bytes: u64) -> Result<Vec<u8>, HubError> {
        let KnownFile { path, num_bytes: all, .. } = self.file;
        let wanted = num_bytes.min(*all);
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let first = (wanted < *all).then_some(wanted);
        let url = self.client.file_url(&self.model.repository, self.commit, path);
        let asked = Asked { model: self.model, file: Some(path) };
        let bytes = self.client.bytes(asked, url, first).await?;
        if bytes.len() as u64 != wanted {
            let (file, expected, got) = (path.clone(), wanted, bytes.len() as u64);
            return Err(HubError::Size { file, expected, got });
        }
        Ok(bytes)
    }

    async fn safetensors_header(&self) -> Result<Vec<u8>, HubError> {
        let guessed = self.start(SAFETENSORS_GUESS).await?;
        let length = guessed.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if length > HEADER_BYTES_MAX.min(self.file.num_bytes) {
            let what = format!("{} has a header of {length} bytes", self.file.path);
            return Err(HubError::Answer { host: self.client.host(), what });
        }
        let needed = LENGTH_BYTES + length;
        if needed <= guessed.len() as u64 {
            return Ok(guessed);
        }
        self.start(needed).await
    }
}

fn write_sparse(path: &Path, bytes: &[u8], num_bytes: u64) -> std::io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.set_len(num_bytes)
}
