//! The bytes of a weight file: in memory, or on a disk and mapped where they are read.
//!
//! While tensors are loaded no file is mapped whole: each is mapped, copied into the device's layout and unmapped, so
//! that what is resident at any time is what was loaded, and one tensor. Only to read its header is a file mapped from
//! end to end; pages that nobody looks at are not read.

use std::{
    fs::File,
    io,
    ops::{Deref, Range},
    path::{Path, PathBuf},
};

use memmap2::{Mmap, MmapOptions};

use crate::error::ModelError;

/// Where the bytes are.
pub(crate) enum WeightBytes {
    /// On a disk.
    File {
        /// For messages.
        path: PathBuf,
        /// Open while the model loads.
        file: File,
    },
    /// In this binary.
    Static(&'static [u8]),
    /// In a buffer.
    Owned(Vec<u8>),
}

/// Bytes of a file, unmapped when dropped.
pub(crate) enum View<'a> {
    Mapped(Mmap),
    Borrowed(&'a [u8]),
    /// Copied from where they lay apart.
    Owned(Vec<u8>),
}

impl WeightBytes {
    /// Opens a file.
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(|source| read_error(path, source))?;
        Ok(Self::File { path: path.to_owned(), file })
    }

    /// Views everything, to read a header. Pages that are not looked at are not read.
    pub(crate) fn whole(&self) -> Result<View<'_>, ModelError> {
        match self {
            Self::File { path, file } => {
                let num_bytes = file.metadata().map_err(|source| read_error(path, source))?.len();
                self.view(0..num_bytes as usize)
            }
            Self::Static(bytes) => Ok(View::Borrowed(bytes)),
            Self::Owned(bytes) => Ok(View::Borrowed(bytes)),
        }
    }

    /// Views a part, which the file's header must have placed inside it.
    pub(crate) fn view(&self, range: Range<usize>) -> Result<View<'_>, ModelError> {
        match self {
            Self::File { path, file } => {
                let view = map(file, range).map_err(|source| read_error(path, source))?;
                Ok(View::Mapped(view))
            }
            Self::Static(bytes) => Ok(View::Borrowed(&bytes[range])),
            Self::Owned(bytes) => Ok(View::Borrowed(&bytes[range])),
        }
    }
}

impl Deref for View<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

#[expect(unsafe_code, reason = "the one memory map of the workspace")]
fn map(file: &File, range: Range<usize>) -> io::Result<Mmap> {
    let num_bytes = file.metadata()?.len();
    if (range.end as u64) > num_bytes {
        // Reading behind the end of a mapping would kill the process.
        let message = format!("the file was cut to {num_bytes} bytes while it was read");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    let mut options = MmapOptions::new();
    options.offset(range.start as u64).len(range.len());
    // SAFETY: the bytes must not change while they are mapped. We never write them, and a mapping lives only as long
    // as one tensor or one header is read; that nobody else rewrites or cuts the file in place meanwhile is the
    // operator's to keep, as it is for any program that maps a file (the hub's cache and package managers replace
    // files, not contents).
    unsafe { options.map(file) }
}

fn read_error(path: &Path, source: io::Error) -> ModelError {
    ModelError::Read { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_the_same_from_everywhere() {
        let name = format!("lacuna-weight-bytes-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let bytes: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let opened = WeightBytes::open(&path).unwrap();
        let owned = WeightBytes::Owned(bytes.clone());
        // Offsets that are no multiple of a page are the rule.
        for range in [0..0, 0..1, 1..9, 4095..4097, 5000..20_000, 19_999..20_000] {
            assert_eq!(*opened.view(range.clone()).unwrap(), bytes[range.clone()], "{range:?}");
            assert_eq!(*owned.view(range.clone()).unwrap(), bytes[range.clone()], "{range:?}");
        }
        assert_eq!(*opened.whole().unwrap(), bytes);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_was_cut_is_an_error() {
        let path = std::env::temp_dir().join(format!("lacuna-cut-{}", std::process::id()));
        std::fs::write(&path, [7; 100]).unwrap();
        let opened = WeightBytes::open(&path).unwrap();
        assert_eq!(*opened.view(60..100).unwrap(), [7; 40]);
        std::fs::write(&path, [7; 50]).unwrap();
        assert!(opened.view(60..100).is_err());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn says_which_file_cannot_be_read() {
        let error = WeightBytes::open(Path::new("/no/such/file")).err().unwrap();
        assert_eq!(error.to_string(), "cannot read /no/such/file");
        let folder = WeightBytes::open(&std::env::temp_dir()).unwrap();
        assert!(folder.whole().is_err(), "a folder is no file");
    }
}
