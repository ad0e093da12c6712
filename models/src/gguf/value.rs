//! Metadata: scalars by value, texts and arrays borrowed from the file.

use std::fmt;

use crate::{
    gguf::{
        cursor::{Cursor, Part},
        error::GgufError,
    },
    shown::shorten,
};

/// Deepest nesting of arrays; no published file nests any.
const DEPTH_MAX: usize = 4;

/// A value of the metadata. Numbers are widened, which loses nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GgufValue<'a> {
    /// An unsigned number of 8 to 64 bits.
    Unsigned(u64),
    /// A signed number of 8 to 64 bits.
    Signed(i64),
    /// A floating-point number of 32 or 64 bits.
    Float(f64),
    /// A truth value.
    Flag(bool),
    /// A text; whether it is UTF-8 is for its reader to say.
    Text(&'a [u8]),
    /// Values of one kind.
    Array(GgufArray<'a>),
}

/// An array, walked once and left where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgufArray<'a> {
    kind: Kind,
    len: usize,
    bytes: &'a [u8],
}

/// The kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// All kinds, each at the place of its number in the file.
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Returns the size of a value, where all have one.
    fn num_bytes(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::Array => None,
        }
    }

    fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, GgufError> {
        let number = cursor.u32(Part::Value(key))?;
        let kind = Self::ALL.get(number as usize).copied();
        kind.ok_or_else(|| cursor.broken(Part::Value(key), "of a kind from 0 to 12", number))
    }
}

impl<'a> GgufValue<'a> {
    /// Reads a kind and a value of it.
    pub(super) fn read(cursor: &mut Cursor<'a>, key: &str) -> Result<Self, GgufError> {
        let kind = Kind::read(cursor, key)?;
        let part = Part::Value(key);
        match kind {
            Kind::Text => cursor.sized(part).map(Self::Text),
            Kind::Array => GgufArray::read(cursor, key, 1).map(Self::Array),
            _ => {
                let bytes = cursor.take(kind.num_bytes().unwrap_or(0), part)?;
                Self::scalar(kind, bytes).ok_or_else(|| {
                    cursor.broken(part, "0 or 1, being a truth value", format!("{bytes:?}"))
                })
            }
        }
    }

    /// Returns the scalar that `bytes` are, which must be as many as the kind has.
    fn scalar(kind: Kind, bytes: &[u8]) -> Option<Self> {
        Some(match kind {
            Kind::U8 => Self::Unsigned((*bytes.first()?).into()),
            Kind::I8 => Self::Signed(i8::from_le_bytes(*bytes.first_chunk()?).into()),
            Kind::U16 => Self::Unsigned(u16::from_le_bytes(*bytes.first_chunk()?).into()),
            Kind::I16 => Self::Signed(i16::from_le_bytes(*bytes.first_chunk()?).into()),
            Kind::U32 => Self::Unsigned(u32::from_le_bytes(*bytes.first_chunk()?).into()),
            Kind::I32 => Self::Signed(i32::from_le_bytes(*bytes.first_chunk()?).into()),
            Kind::F32 => Self::Float(f32::from_le_bytes(*bytes.first_chunk()?).into()),
            Kind::U64 => Self::Unsigned(u64::from_le_bytes(*bytes.first_chunk()?)),
            Kind::I64 => Self::Signed(i64::from_le_bytes(*bytes.first_chunk()?)),
            Kind::F64 => Self::Float(f64::from_le_bytes(*bytes.first_chunk()?)),
            Kind::Bool => Self::Flag(match bytes.first()? {
                0 => false,
                1 => true,
                _ => return None,
            }),
            Kind::Text | Kind::Array => return None,
        })
    }
}

impl fmt::Display for GgufValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(number) => number.fmt(f),
            Self::Signed(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::Text(text) => write!(f, "{:?}", shorten(&String::from_utf8_lossy(text))),
            Self::Array(array) => write!(f, "an array of {}", array.len),
        }
    }
}

impl<'a> GgufArray<'a> {
    fn read(cursor: &mut Cursor<'a>, key: &str, depth: usize) -> Result<Self, GgufError> {
        let part = Part::Value(key);
        if depth > DEPTH_MAX {
            return Err(cursor.broken(part, format!("nested {DEPTH_MAX} deep at most"), "more"));
        }
        let kind = Kind::read(cursor, key)?;
        let len = cursor.u64(part)?;
        let start = cursor.offset();
        match kind.num_bytes() {
            Some(num_bytes) => {
                cursor.take(len.saturating_mul(num_bytes), part)?;
            }
            // Each element takes bytes of the file, so that a wrong length ends with the file.
            None if kind == Kind::Text => {
                for _ in 0..len {
                    cursor.sized(part)?;
                }
            }
            None => {
                for _ in 0..len {
                    Self::read(cursor, key, depth + 1)?;
                }
            }
        }
        Ok(Self { kind, len: len as usize, bytes: cursor.since(start) })
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the elements; `None` where they are arrays, or truth values that are neither 0 nor 1.
    pub fn values(&self) -> impl Iterator<Item = Option<GgufValue<'a>>> + use<'a> {
        let (kind, mut rest) = (self.kind, self.bytes);
        (0..self.len).map(move |_| {
            let num_bytes = match kind.num_bytes() {
                Some(num_bytes) => num_bytes as usize,
                None if kind == Kind::Text => {
                    let (prefix, text) = rest.split_first_chunk::<8>()?;
                    rest = text;
                    u64::from_le_bytes(*prefix) as usize
                }
                None => return None,
            };
            let (bytes, behind) = rest.split_at_checked(num_bytes)?;
            rest = behind;
            if kind == Kind::Text {
                return Some(GgufValue::Text(bytes));
            }
            GgufValue::scalar(kind, bytes)
        })
    }
}
