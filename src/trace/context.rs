//! Which span of which trace: as W3C Trace Context writes it, level 1.
//!
//! # Source
//! <https://www.w3.org/TR/trace-context/>

use std::fmt;

/// Bytes of a `traceparent` of the known version.
const BYTES: usize = 55;
/// The one bit of the flags that says something.
const SAMPLED: u8 = 1;

/// Names a span, across processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// The same for all spans of a trace; never 0.
    pub trace_id: u128,
    /// Never 0.
    pub span_id: u64,
    /// Whether the trace is recorded.
    pub is_sampled: bool,
}

impl SpanContext {
    /// Reads a `traceparent`; `None` where it is not one. Of versions that are not known yet the known parts count.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_plain = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        let head = text.get(..BYTES).filter(|head| head.is_ascii())?;
        let mut parts = head.split('-');
        let version = hex(parts.next()?, 2)? as u8;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = hex(parts.next()?, 16)? as u64;
        let flags = hex(parts.next()?, 2)? as u8;
        let is_whole = match version {
            0xff => false,
            0 => is_plain && text.len() == BYTES,
            _ => text.len() == BYTES || text[BYTES..].starts_with('-'),
        };
        let is_known = is_whole && parts.next().is_none() && trace_id != 0 && span_id != 0;
        is_known.then_some(Self { trace_id, span_id, is_sampled: flags & SAMPLED != 0 })
    }
}

fn hex(text: &str, num_digits: usize) -> Option<u128> {
    let is_hex = text.len() == num_digits
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u128::from_str_radix(text, 16).ok())?
}

impl fmt::Display for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-", self.trace_id, self.span_id)?;
        f.write_str(if self.is_sampled { "01" } else { "00" })
    }
}
