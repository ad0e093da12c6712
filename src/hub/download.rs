//! One file from the hub into the cache: alone by a lock, in pieces that survive a break, checked before it counts.
//!
//! A part is named after its content's hash and asked for by commit, so that what a later try appends can only be of the
//! same file; the hash over all of it decides in the end. That is why no entity tag goes with a range: those of the
//! networks that files are handed out from differ between their machines, and would only throw good parts away.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::Path,
    time::Duration,
};

use reqwest::{Response, StatusCode, header};
use tokio::time::{Instant, timeout_at};

use crate::{
    config::HubModel,
    hub::{
        HubError, PullEvent,
        cache::RepositoryFolder,
        error::Fault,
        http::{Asked, HubClient, network},
        listing::KnownFile,
        part::Part,
    },
};

/// What is written at once, unless it comes slowly.
const WRITE_BYTES: usize = 1 << 20;
/// Longest time that what came stays in memory, where an interruption would lose it.
const WRITE_INTERVAL: Duration = Duration::from_millis(250);
/// How often a lock that another process holds is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(200);

/// Downloads files of one commit.
#[derive(Clone, Copy)]
pub(super) struct Downloader<'a> {
    pub(super) client: &'a HubClient<'a>,
    pub(super) folder: &'a RepositoryFolder,
    pub(super) model: &'a HubModel,
    pub(super) commit: &'a str,
}

/// How a try ended: the part with what has come, and why no more did.
type Received = (Part, Result<(), HubError>);

impl Downloader<'_> {
    /// Returns how much of the file is still to come.
    pub(super) fn num_bytes_missing(&self, file: &KnownFile) -> u64 {
        if is_whole(&self.folder.blob(&file.digest), file.num_bytes) {
            return 0;
        }
        let kept = self.folder.part(&file.digest).metadata().map_or(0, |metadata| metadata.len());
        file.num_bytes.saturating_sub(kept)
    }

    /// Brings the file's blob into the cache; one that is there is not looked at again.
    pub(super) async fn download(&self, file: &KnownFile) -> Result<(), HubError> {
        let blob = self.folder.blob(&file.digest);
        if !is_whole(&blob, file.num_bytes) {
            let lock = self.lock(file).await?;
            // Whoever held the lock may have brought it.
            if !is_whole(&blob, file.num_bytes) {
                self.download_locked(file, &blob, lock).await?;
            }
        }
        self.client.tell(PullEvent::Finished { file: &file.path, num_bytes: file.num_bytes });
        Ok(())
    }

    async fn download_locked(
        &self,
        file: &KnownFile,
        blob: &Path,
        lock: File,
    ) -> Result<(), HubError> {
        let (path, digest) = (self.folder.part(&file.digest), file.digest.clone());
        let num_bytes = file.num_bytes;
        let mut part = blocking(move || Part::open(&path, &digest, num_bytes, lock)).await?;
        let (mut num_failed, mut len_max) = (0, part.len());
        loop {
            self.client.tell(PullEvent::Advanced { file: &file.path, num_bytes: part.len() });
            let (received, outcome) = self.receive(file, part).await?;
            part = received;
            let Err(error) = outcome else { break };
            // What matters is a row of tries without a new byte: a long download may break many times, and one that begins
            // anew each time is none the further for it.
            num_failed = if part.len() > len_max { 1 } else { num_failed + 1 };
            len_max = len_max.max(part.len());
            let Some(delay) = self.client.delay(&error, num_failed) else {
                return Err(stopped(file, part.len(), error));
            };
            self.client.tell(PullEvent::Retry { file: &file.path, error: &error, delay });
            tokio::time::sleep(delay).await;
        }
        let (blob, name) = (blob.to_owned(), file.path.clone());
        blocking(move || part.finish(&blob, &name)).await
    }

    /// Receives what lacks of the file, in one try.
    async fn receive(&self, file: &KnownFile, mut part: Part) -> Result<Received, HubError> {
        let start = part.len();
        if start == file.num_bytes {
            return Ok((part, Ok(())));
        }
        let url = self.client.file_url(&self.model.repository, self.commit, &file.path);
        let asked = Asked { model: self.model, file: Some(&file.path) };
        let range = (start > 0).then(|| format!("bytes={start}-"));
        let mut response = match self.client.get(asked, url, range.as_deref()).await {
            Ok(response) => response,
            Err(error) => return Ok((part, Err(error))),
        };
        match place(&response, start) {
            Placed::Rest(total) if total.is_none_or(|total| total == file.num_bytes) => {}
            // All that is kept goes for this answer, so it must at least have the file's size.
            Placed::Whole(total) if total.map_or(start == 0, |total| total == file.num_bytes) => {
                part = blocking(move || part.restart().map(|()| part)).await?;
            }
            Placed::Rest(Some(got)) | Placed::Whole(Some(got)) if start == 0 => {
                return Err(wrong_size(file, got, part).await);
            }
            placed => return Err(self.not_continued(file, start, &placed)),
        }
        let (mut buffer, mut write_at) = (Vec::with_capacity(WRITE_BYTES), Instant::now());
        loop {
            // Nothing is lost where the time is up first: a piece is taken whole or not at all.
            let piece = timeout_at(write_at, response.chunk()).await;
            if let Ok(Ok(Some(bytes))) = &piece {
                buffer.extend_from_slice(bytes);
                if buffer.len() < WRITE_BYTES {
                    continue;
                }
            }
            let got = part.len() + buffer.len() as u64;
            if got > file.num_bytes {
                return Err(wrong_size(file, got, part).await);
            }
            (part, buffer) = blocking(move || {
                part.append(&buffer)?;
                buffer.clear();
                Ok((part, buffer))
            })
            .await?;
            write_at = Instant::now() + WRITE_INTERVAL;
            self.client.tell(PullEvent::Advanced { file: &file.path, num_bytes: part.len() });
            match piece {
                Err(_) | Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) if part.len() == file.num_bytes => return Ok((part, Ok(()))),
                Ok(Ok(None)) => {
                    let (host, fault) = (self.client.host(), Fault::Cut);
                    let error = HubError::Network { host, fault, source: None };
                    return Ok((part, Err(error)));
                }
                Ok(Err(error)) => {
                    let error = network(response.url(), error);
                    return Ok((part, Err(error)));
                }
            }
        }
    }

    /// Says that an answer is of no use, and that what is kept still is.
    fn not_continued(&self, file: &KnownFile, kept_bytes: u64, placed: &Placed) -> HubError {
        let (host, name) = (self.client.host(), file.path.clone());
        if kept_bytes == 0 {
            let what = format!("it sends a part of {name}, of which all was asked for");
            return HubError::Answer { host, what };
        }
        let what = match placed {
            Placed::Elsewhere => "another range came than was asked for".to_owned(),
            Placed::Whole(None) => "an answer of no known length came".to_owned(),
            Placed::Rest(got) | Placed::Whole(got) => {
                let (got, expected) = (got.unwrap_or_default(), file.num_bytes);
                format!("the answer is of a file of {got} bytes, and this one has {expected}")
            }
        };
        let part = self.folder.part(&file.digest);
        HubError::NotContinued { file: name, part, kept_bytes, what }
    }

    /// Waits until no other process, Python's among them, downloads the blob. The lock ends with the returned file.
    async fn lock(&self, file: &KnownFile) -> Result<File, HubError> {
        let path = self.folder.lock(&file.digest);
        let failed = |error| HubError::cache(&path, error);
        let opened = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        let mut is_told = false;
        loop {
            match opened.try_lock() {
                Ok(()) => return Ok(opened),
                // Where the file system has no locks there is nothing to wait for.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(opened);
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) => {}
            }
            if !is_told {
                self.client.tell(PullEvent::Waiting { file: &file.path });
                is_told = true;
            }
            tokio::time::sleep(LOCK_INTERVAL).await;
        }
    }
}

/// What an answer begins with, and the size of the whole file where it says it.
enum Placed {
    /// What was asked for.
    Rest(Option<u64>),
    /// The file's first byte.
    Whole(Option<u64>),
    /// Another place, or none that is said.
    Elsewhere,
}

fn place(response: &Response, start: u64) -> Placed {
    let headers = response.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if response.status() != StatusCode::PARTIAL_CONTENT {
        let total = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        return Placed::Whole(total);
    }
    let range = text(header::CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes "));
    let (place, total) = range.and_then(|range| range.split_once('/')).unwrap_or_default();
    let first = place.split_once('-').and_then(|(first, _)| first.parse().ok());
    if first == Some(start) { Placed::Rest(total.parse().ok()) } else { Placed::Elsewhere }
}

async fn wrong_size(file: &KnownFile, got: u64, part: Part) -> HubError {
    let (path, expected) = (file.path.clone(), file.num_bytes);
    match blocking(move || part.discard()).await {
        Ok(()) => HubError::Size { file: path, expected, got },
        Err(error) => error,
    }
}

fn stopped(file: &KnownFile, kept_bytes: u64, error: HubError) -> HubError {
    if !error.is_transient() {
        return error;
    }
    let (file, num_bytes) = (file.path.clone(), file.num_bytes);
    HubError::Stopped { file, kept_bytes, num_bytes, source: Box::new(error) }
}

fn is_whole(blob: &Path, num_bytes: u64) -> bool {
    blob.metadata().is_ok_and(|metadata| metadata.len() == num_bytes)
}

/// Does what blocks on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HubError> + Send + 'static,
) -> Result<T, HubError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going away, and this future with it.
        Err(_) => std::future::pending().await,
    }
}
