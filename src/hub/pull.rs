//! A model from the hub into the cache: listed, chosen, checked for space, downloaded side by side, linked.
//!
//! Links and the note of the commit come last, when every blob is whole: a pull that was interrupted leaves parts, and
//! nothing that looks like a model.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    config::{HubConfig, HubModel},
    hub::{
        HubError,
        cache::{self, RepositoryFolder},
        download::Downloader,
        http::HubClient,
        listing::{self, KnownFile},
        select,
    },
};

/// What happens while a model is pulled.
#[derive(Debug)]
pub enum PullEvent<'a> {
    /// It is known what is to come.
    Listed {
        /// The commit that the revision is now.
        commit: &'a str,
        /// Paths and sizes of the wanted files.
        files: &'a [(String, u64)],
        /// Bytes that the cache lacks of them.
        num_bytes_missing: u64,
    },
    /// The hub could not be asked, and the cache has all that it knew of the model.
    Kept {
        /// The commit that the revision was.
        commit: &'a str,
        /// Why it could not.
        error: &'a HubError,
    },
    /// Another process downloads the file, and is waited for.
    Waiting {
        /// Its path.
        file: &'a str,
    },
    /// So much of the file is in the cache.
    Advanced {
        /// Its path.
        file: &'a str,
        /// Of its bytes.
        num_bytes: u64,
    },
    /// A try failed and there will be another.
    Retry {
        /// The file's path.
        file: &'a str,
        /// Why.
        error: &'a HubError,
        /// When.
        delay: Duration,
    },
    /// The file is whole and checked.
    Finished {
        /// Its path.
        file: &'a str,
        /// Its size.
        num_bytes: u64,
    },
}

/// Is told what happens. It is called between two pieces of a download, so it must not take long.
pub type Watch<'a> = &'a (dyn Fn(PullEvent<'_>) + Sync);

/// A model that was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Its folder, or its GGUF file.
    pub path: PathBuf,
    /// The commit that it is of.
    pub commit: String,
    /// Bytes that the cache lacked of it.
    pub num_bytes_missing: u64,
}

/// Brings what the cache lacks of `model`, or finds it whole there where the hub cannot be asked. Dropping the future
/// interrupts it; the next call goes on where it was.
///
/// # Errors
/// [`HubError`], with what to do about it.
pub async fn pull(
    config: &HubConfig,
    model: &HubModel,
    watch: Watch<'_>,
) -> Result<Pulled, HubError> {
    if config.is_offline {
        let offline = HubError::Offline { model: model.clone(), what: "pulled" };
        return kept(config, model, offline, watch);
    }
    let cache = cache::cache_folder(config)?;
    let client = HubClient::new(config, watch)?;
    let (commit, files) = match wanted_files(&client, config, model).await {
        Err(error) if error.is_silence() => return kept(config, model, error, watch),
        wanted => wanted?,
    };
    let folder = RepositoryFolder::new(cache, &model.repository);
    folder.create()?;
    let downloader = Downloader { client: &client, folder: &folder, model, commit: &commit };
    // Sizes are what a server says: their sum must not overflow.
    let missing = files.iter().map(|file| downloader.num_bytes_missing(file));
    let num_bytes_missing = missing.fold(0, u64::saturating_add);
    check_space(cache, num_bytes_missing)?;
    let sizes: Vec<_> = files.iter().map(|file| (file.path.clone(), file.num_bytes)).collect();
    watch(PullEvent::Listed { commit: &commit, files: &sizes, num_bytes_missing });
    let downloads = stream::iter(&files).map(|file| downloader.download(file));
    downloads.buffer_unordered(config.num_parallel_files).try_collect::<()>().await?;
    for file in &files {
        folder.link(&commit, &file.path, &file.digest)?;
    }
    folder.note_commit(&model.revision, &commit)?;
    // By its commit: a part of it that was there before belongs to the same.
    let pinned = HubModel { revision: commit.clone(), ..model.clone() };
    Ok(Pulled { path: cache::find(config, &pinned)?, commit, num_bytes_missing })
}

/// Returns the copy in the cache, which may have been overtaken; without a whole one, the error that kept from asking.
fn kept(
    config: &HubConfig,
    model: &HubModel,
    error: HubError,
    watch: Watch<'_>,
) -> Result<Pulled, HubError> {
    let Ok(path) = cache::find(config, model) else { return Err(error) };
    let folder = RepositoryFolder::new(cache::cache_folder(config)?, &model.repository);
    let commit = folder.commit(&model.revision)?;
    watch(PullEvent::Kept { commit: &commit, error: &error });
    Ok(Pulled { path, commit, num_bytes_missing: 0 })
}

/// Asks whether there is such a model that may be pulled, with one request, and brings nothing.
///
/// # Errors
/// [`HubError`], with what to do about it.
pub async fn check(config: &HubConfig, model: &HubModel) -> Result<(), HubError> {
    let client = HubClient::new(config, &|_| {})?;
    let listing = listing::fetch(&client, model).await?;
    select::select(&model.repository, &listing.files, model.file.as_deref()).map(|_| ())
}

/// Asks which files make up the model, and of which commit.
pub(super) async fn wanted_files(
    client: &HubClient<'_>,
    config: &HubConfig,
    model: &HubModel,
) -> Result<(String, Vec<KnownFile>), HubError> {
    let listing = listing::fetch(client, model).await?;
    let commit = listing.commit;
    let files = select::select(&model.repository, &listing.files, model.file.as_deref())?;
    let known = stream::iter(files).map(|file| listing::know(client, model, &commit, file));
    let known = known.buffered(config.num_parallel_files).try_collect().await?;
    Ok((commit, known))
}

/// Refuses what would fill the disk before a byte is asked for.
fn check_space(folder: &Path, needed_bytes: u64) -> Result<(), HubError> {
    let space = rustix::fs::statvfs(folder);
    let space = space.map_err(|error| HubError::cache(folder, error.into()))?;
    let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
    if needed_bytes > free_bytes {
        return Err(HubError::NoSpace { folder: folder.to_owned(), needed_bytes, free_bytes });
    }
    Ok(())
}
