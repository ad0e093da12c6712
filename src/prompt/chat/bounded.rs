//! A text that grows up to a limit: what a template writes, and what a single call of it makes.

use std::io::{self, Write};

use minijinja::{Error, ErrorKind, value::Value};

/// Takes what is written, up to a limit.
#[derive(Debug)]
pub(in crate::prompt) struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Bounded {
    pub(in crate::prompt) fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max }
    }

    /// Writes a text.
    ///
    /// # Errors
    /// [`too_much`].
    pub(super) fn push(&mut self, text: &str) -> Result<(), Error> {
        self.write_all(text.as_bytes()).map_err(|_| too_much())
    }

    /// Writes a value as a template would.
    ///
    /// # Errors
    /// [`too_much`].
    pub(super) fn push_value(&mut self, value: &Value) -> Result<(), Error> {
        write!(self, "{value}").map_err(|_| too_much())
    }

    /// Writes so many blanks.
    ///
    /// # Errors
    /// [`too_much`].
    pub(super) fn push_blanks(&mut self, num: usize) -> Result<(), Error> {
        if num > self.bytes_max - self.bytes.len() {
            return Err(too_much());
        }
        self.bytes.resize(self.bytes.len() + num, b' ');
        Ok(())
    }

    /// Lets less be written, for work that leaves no text.
    ///
    /// # Errors
    /// [`too_much`].
    pub(super) fn charge(&mut self, num_bytes: usize) -> Result<(), Error> {
        let left = self.bytes_max - self.bytes.len();
        self.bytes_max -= (num_bytes <= left).then_some(num_bytes).ok_or_else(too_much)?;
        Ok(())
    }

    /// Returns what was written; texts only make a text.
    ///
    /// # Errors
    /// What is no text.
    pub(in crate::prompt) fn into_text(self) -> Result<String, Error> {
        String::from_utf8(self.bytes).map_err(|_| ErrorKind::BadSerialization.into())
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.bytes_max - self.bytes.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the error of a text that grows too long; it is the engine's for an output that takes no more.
pub(super) fn too_much() -> Error {
    ErrorKind::WriteFailure.into()
}
