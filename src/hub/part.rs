//! A blob while it comes: the file that keeps what was received, and its hash so far.
//!
//! All of this blocks, on the disk or on the hash, and is called off the asynchronous threads.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use crate::hub::{
    HubError,
    digest::{Digest, Hasher},
};

/// Bytes that are read at once when what was kept is hashed.
const READ_BYTES: usize = 1 << 20;

/// The file of a blob that is not whole.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    digest: Digest,
    num_bytes: u64,
    len: u64,
    /// Held as long as anything may be written, an interrupted download's last piece included.
    lock: File,
}

impl Part {
    /// Opens what an earlier download left at `path`, or begins anew. The blob is to have `num_bytes` and `digest`; `lock`
    /// ends with the part.
    pub(super) fn open(
        path: &Path,
        digest: &Digest,
        num_bytes: u64,
        lock: File,
    ) -> Result<Self, HubError> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path);
        let file = file.map_err(|error| HubError::cache(path, error))?;
        let mut part = Self {
            path: path.to_owned(),
            file,
            hasher: digest.hasher(num_bytes),
            digest: digest.clone(),
            num_bytes,
            len: 0,
            lock,
        };
        part.hash_kept()?;
        if part.len > num_bytes {
            part.restart()?;
        }
        Ok(part)
    }

    /// Returns how much has come.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Appends what came.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(|error| HubError::cache(&self.path, error))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what has come.
    pub(super) fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(|error| HubError::cache(&self.path, error))?;
        self.hasher = self.digest.hasher(self.num_bytes);
        self.len = 0;
        Ok(())
    }

    /// Makes the part the blob at `blob`, if it is what it should be; else deletes it. `file` is its name in errors.
    pub(super) fn finish(self, blob: &Path, file: &str) -> Result<(), HubError> {
        let Self { path, file: opened, hasher, digest, lock: _lock, .. } = self;
        if !digest.is(hasher) {
            remove(&path)?;
            return Err(HubError::Hash { file: file.to_owned() });
        }
        // The name says that the content is there, so the content is to be on the disk first.
        let synced = opened.sync_all().and_then(|()| fs::rename(&path, blob));
        synced.map_err(|error| HubError::cache(blob, error))
    }

    /// Deletes the part: what came is not what was listed.
    pub(super) fn discard(self) -> Result<(), HubError> {
        remove(&self.path)
    }

    fn hash_kept(&mut self) -> Result<(), HubError> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = self.file.read(&mut buffer);
            let num_read = read.map_err(|error| HubError::cache(&self.path, error))?;
            if num_read == 0 {
                return Ok(());
            }
            self.hasher.update(&buffer[..num_read]);
            self.len += num_read as u64;
        }
    }
}

fn remove(path: &Path) -> Result<(), HubError> {
    fs::remove_file(path).map_err(|error| HubError::cache(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_lasts_as_long_as_the_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob.lock");
        let lock = File::create(&path).unwrap();
        lock.lock().unwrap();
        // `printf hello | sha256sum`
        let digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let digest = Digest::parse(digest).unwrap();
        let (part, blob) = (folder.path().join("blob.incomplete"), folder.path().join("blob"));
        let mut part = Part::open(&part, &digest, 5, lock).unwrap();
        part.append(b"hello").unwrap();
        let other = File::open(&path).unwrap();
        assert!(other.try_lock().is_err(), "the part is still written");
        part.finish(&blob, "a").unwrap();
        assert!(other.try_lock().is_ok());
        assert_eq!(fs::read(blob).unwrap(), b"hello");
    }
}
