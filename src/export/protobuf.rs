//! Protocol Buffers as bytes: the three kinds of fields that OTLP's spans have.
//!
//! # Source
//! <https://protobuf.dev/programming-guides/encoding/>

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// A message being written. Fields that have their default are left out, as the format wants it.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// Returns its bytes.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Writes an integer or a member of an enumeration.
    pub(super) fn integer(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.always_integer(field, value);
        }
    }

    /// Writes an integer that is one of several kinds of value, so that 0 says which.
    pub(super) fn always_integer(&mut self, field: u64, value: u64) {
        self.varint(field << 3 | VARINT);
        self.varint(value);
    }

    /// Writes eight bytes as they are.
    pub(super) fn fixed64(&mut self, field: u64, value: u64) {
        self.varint(field << 3 | FIXED64);
        self.0.extend(value.to_le_bytes());
    }

    /// Writes four bytes as they are.
    pub(super) fn fixed32(&mut self, field: u64, value: u32) {
        self.varint(field << 3 | FIXED32);
        self.0.extend(value.to_le_bytes());
    }

    /// Writes a text, or bytes.
    pub(super) fn bytes(&mut self, field: u64, value: &[u8]) {
        if !value.is_empty() {
            self.always_bytes(field, value);
        }
    }

    /// Writes a text that is one of several kinds of value, so that an empty one says which.
    pub(super) fn always_bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | BYTES);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    /// Writes a message within it.
    pub(super) fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.always_bytes(field, &inner.0);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
