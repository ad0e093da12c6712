//! Reads numbers and texts from the front of a file, and knows where it is when the file ends.

use std::fmt::{self, Display};

use crate::{
    gguf::error::GgufError,
    shown::{escape, shorten},
};

/// What is being read, for errors. Costs nothing until one is made.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    Header,
    Magic,
    Version,
    /// A key, by its place in the metadata.
    Key(u64),
    /// A value, by its key.
    Value(&'a str),
    /// A name, by its place in the table of tensors.
    TensorName(u64),
    /// What the table says of a tensor.
    Tensor(&'a str),
    /// The element type of a tensor.
    TensorType(&'a str),
    /// The sizes of a tensor.
    TensorShape(&'a str),
    /// Where a tensor begins.
    TensorOffset(&'a str),
}

impl Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Header => write!(f, "the header"),
            Self::Magic => write!(f, "the first four bytes"),
            Self::Version => write!(f, "the version"),
            Self::Key(index) => write!(f, "key {index} of the metadata"),
            Self::Value(key) => write!(f, "{}", shown(key)),
            Self::TensorName(index) => write!(f, "the name of tensor {index}"),
            Self::Tensor(name) => write!(f, "tensor {}", shown(name)),
            Self::TensorType(name) => write!(f, "the element type of tensor {}", shown(name)),
            Self::TensorShape(name) => write!(f, "the shape of tensor {}", shown(name)),
            Self::TensorOffset(name) => write!(f, "the offset of tensor {}", shown(name)),
        }
    }
}

/// Returns a key or a name as messages have it.
pub(super) fn shown(name: &str) -> String {
    format!("`{}`", escape(name))
}

/// A place in a file.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    file: &'a str,
    bytes: &'a [u8],
    file_bytes: usize,
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a str, bytes: &'a [u8]) -> Self {
        Self { file, bytes, file_bytes: bytes.len(), offset: 0 }
    }

    /// Reads the first bytes of a file of which no more is at hand, and that is believed to be as long as it must.
    pub(super) fn of_start(bytes: &'a [u8]) -> Self {
        Self { file: "", bytes, file_bytes: usize::MAX, offset: 0 }
    }

    /// Returns the name of the file.
    pub(super) fn file(&self) -> &'a str {
        self.file
    }

    /// Returns the number of bytes read so far.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the length of the file.
    pub(super) fn file_bytes(&self) -> usize {
        self.file_bytes
    }

    /// Returns the bytes from `start` to the cursor.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.offset]
    }

    /// Takes the next `num_bytes`.
    pub(super) fn take(&mut self, num_bytes: u64, part: Part<'_>) -> Result<&'a [u8], GgufError> {
        let rest = &self.bytes[self.offset..];
        let taken = usize::try_from(num_bytes).ok().and_then(|len| rest.get(..len));
        let taken = taken.ok_or_else(|| self.short(part, num_bytes, self.offset as u64))?;
        self.offset += taken.len();
        Ok(taken)
    }

    pub(super) fn u32(&mut self, part: Part<'_>) -> Result<u32, GgufError> {
        self.array(part).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, part: Part<'_>) -> Result<u64, GgufError> {
        self.array(part).map(u64::from_le_bytes)
    }

    pub(super) fn array<const N: usize>(&mut self, part: Part<'_>) -> Result<[u8; N], GgufError> {
        let taken = self.take(N as u64, part)?;
        // `take` gives exactly what was asked for, so that the default stands for nothing.
        Ok(taken.first_chunk().copied().unwrap_or([0; N]))
    }

    /// Takes a length and as many bytes.
    pub(super) fn sized(&mut self, part: Part<'_>) -> Result<&'a [u8], GgufError> {
        let num_bytes = self.u64(part)?;
        self.take(num_bytes, part)
    }

    /// Takes a key or a name, which must be text.
    pub(super) fn text(&mut self, part: Part<'_>) -> Result<&'a str, GgufError> {
        let bytes = self.sized(part)?;
        std::str::from_utf8(bytes).map_err(|_| {
            let shown = String::from_utf8_lossy(bytes);
            self.broken(part, "UTF-8", format!("{:?}", shorten(&shown)))
        })
    }

    /// Says that the file ends before `part` does.
    pub(super) fn short(&self, part: Part<'_>, num_bytes: u64, offset: u64) -> GgufError {
        GgufError::Short {
            file: self.file.to_owned(),
            part: part.to_string(),
            num_bytes,
            offset,
            file_bytes: self.bytes.len() as u64,
        }
    }

    /// Says that `part` breaks a rule.
    pub(super) fn broken(
        &self,
        part: Part<'_>,
        rule: impl Into<String>,
        value: impl Display,
    ) -> GgufError {
        GgufError::Broken {
            file: self.file.to_owned(),
            part: part.to_string(),
            rule: rule.into(),
            value: value.to_string(),
        }
    }
}
