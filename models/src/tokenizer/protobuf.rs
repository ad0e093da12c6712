//! The wire form of protocol buffers, read from the front with every length checked.
//!
//! # Source
//! protobuf.dev, "Encoding": a field is a varint of its number and wire type, then a varint, four or eight bytes, or a
//! length and as many bytes.

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// Integers, enums and truth values.
    Varint(u64),
    /// Four bytes, such as a `float`.
    Fixed32([u8; 4]),
    /// Eight bytes.
    Fixed64([u8; 8]),
    /// A text, bytes or a message.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Returns the bytes of a text or message.
    pub(super) fn bytes(self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    /// Returns an integer.
    pub(super) fn varint(self) -> Option<u64> {
        if let Self::Varint(number) = self { Some(number) } else { None }
    }

    /// Returns a `float`.
    pub(super) fn float(self) -> Option<f32> {
        if let Self::Fixed32(bytes) = self { Some(f32::from_le_bytes(bytes)) } else { None }
    }
}

/// The fields of a message, in the order of the file; the last item is `Err` where the message breaks off.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

/// A message ends within a field, or has one of a type that no longer exists.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

impl<'a> Fields<'a> {
    /// Reads a message.
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(*self.take(8)?.first_chunk()?),
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Fixed32(*self.take(4)?.first_chunk()?),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7F);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(bytes)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or(Broken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_wire_type() {
        let message = [
            0x08, 0x96, 0x01, // field 1: 150
            0x12, 2, b'h', b'i', // field 2: "hi"
            0x1D, 0, 0, 0x80, 0x3F, // field 3: 1.0
            0x21, 1, 0, 0, 0, 0, 0, 0, 0, // field 4: 1
            0xC0, 0x02, 0x01, // field 40: 1
            0x28, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, // field 5: -1
        ];
        let fields: Vec<_> = Fields::of(&message).map(Result::unwrap).collect();
        let expected = [
            (1, Value::Varint(150)),
            (2, Value::Bytes(b"hi")),
            (3, Value::Fixed32([0, 0, 0x80, 0x3F])),
            (4, Value::Fixed64([1, 0, 0, 0, 0, 0, 0, 0])),
            (40, Value::Varint(1)),
            (5, Value::Varint(u64::MAX)),
        ];
        assert_eq!(fields, expected);
        assert_eq!(fields[2].1.float(), Some(1.0));
    }

    #[test]
    fn what_breaks_off_is_broken_once() {
        let rows: [&[u8]; 8] = [
            &[0x08],
            &[0x08, 0x80],
            &[0x12, 5, b'h'],
            &[0x1D, 0, 0],
            &[0x21, 0],
            &[0x0B],
            &[0x12, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
            &[0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02],
        ];
        for message in rows {
            assert_eq!(Fields::of(message).collect::<Vec<_>>(), [Err(Broken)], "{message:?}");
        }
    }
}
