//! The file of a result. It keeps what it holds until the new result is whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    process,
    time::{SystemTime, UNIX_EPOCH},
};

/// A file that a result can be written to.
#[derive(Debug)]
pub(super) struct Destination {
    path: PathBuf,
    /// What is written to where it is: devices, pipes and links. `None` where a new file takes the place of the earlier.
    in_place: Option<File>,
}

impl Destination {
    /// Proves that `path` can be written, and changes nothing that it holds.
    ///
    /// # Errors
    /// Whatever keeps it from being written.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let in_place = if can_be_replaced(path)? { None } else { Some(open_in_place(path)?) };
        Ok(Self { path: path.to_owned(), in_place })
    }

    /// Writes the result.
    ///
    /// # Errors
    /// The disk's own. A file that would have been replaced is as it was then.
    pub(super) fn write(self, text: &str) -> io::Result<()> {
        let Some(mut file) = self.in_place else { return replace(&self.path, text) };
        // Only a file that a link leads to has a length to cut.
        if file.metadata()?.is_file() {
            file.set_len(0)?;
        }
        file.write_all(text.as_bytes())
    }

    /// Returns the path as it was typed.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns whether a new file can take the place of `path`: of a file itself, or of nothing. A link would be replaced in
/// place of what it leads to, and behind /dev/stdout somebody holds the file open.
fn can_be_replaced(path: &Path) -> io::Result<bool> {
    let is_there = match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => true,
        Err(error) if error.kind() == ErrorKind::NotFound && ends_in_name(path) => false,
        _ => return Ok(false),
    };
    if is_there {
        // A file that must not be written must not be replaced either.
        OpenOptions::new().write(true).open(path)?;
    }
    // Made and removed: whatever ends the measurement, nothing is left behind.
    match create_beside(path) {
        Ok((_, partial)) => fs::remove_file(partial).map(|()| true),
        // The file may be written where its folder may not.
        Err(error) if is_there && error.kind() == ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns whether a file of this path can exist: `a/` and `a/.` name folders only.
fn ends_in_name(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    path.file_name().is_some_and(|name| bytes.ends_with(name.as_encoded_bytes()))
}

fn open_in_place(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path)
}

/// Creates a file in the folder of `path`, so that a rename brings it there without a copy.
fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    // Process ids come again in containers, moments do not; a clock before 1970 leaves the id.
    let moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let partial = path.with_file_name(format!(".lacuna-bench-{}-{moment}.part", process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&partial)?;
    Ok((file, partial))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let (file, partial) = create_beside(path)?;
    let replaced = fill(file, &partial, path, text).and_then(|()| fs::rename(&partial, path));
    if replaced.is_err() {
        // The failure itself says more than one of tidying up.
        let _ = fs::remove_file(&partial);
    }
    replaced
}

fn fill(mut file: File, partial: &Path, path: &Path, text: &str) -> io::Result<()> {
    if let Ok(earlier) = fs::metadata(path) {
        // Who could read the earlier file shall read this one; a file system without modes is no reason to lose it.
        let _ = fs::set_permissions(partial, earlier.permissions());
    }
    file.write_all(text.as_bytes())?;
    // Some file systems say only here that they are full.
    file.sync_all()
}
